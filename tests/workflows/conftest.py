"""Fixtures of the tests that go through whole workflows in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """Two processors' worth of Ray, for all files: it takes seconds to start."""
    import ray

    ray.shutdown()  # another room's may still be up
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
