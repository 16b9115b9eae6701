"""One cluster for all tests of a session: it takes a quarter of a minute to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Bench, bench


@pytest.fixture(scope="session")
def cluster() -> Iterator[Bench]:
    """A head, two workers and a PostgreSQL."""
    with pytest.MonkeyPatch.context() as patch, bench() as made:
        for name in ("PGPASSWORD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            patch.setenv(name, made.environment[name])  # for what a test does in its own process
        yield made


@pytest.fixture(scope="session")
def uninterrupted(cluster: Bench) -> Path:
    """The store of a run that nothing happened to."""
    done = cluster.illada(*cluster.arguments("quiet"), "--wait")
    assert done.returncode == 0, done.stderr + cluster.log("quiet")
    return cluster.store("quiet")
