"""Fixtures of the text rooms' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from text_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """Two processors' worth of Ray."""
    import ray

    ray.shutdown()  # another room's may still be up
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
