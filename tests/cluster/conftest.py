"""One cluster for all tests of a session: it takes a quarter of a minute to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Bench, bench

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cluster tests last: their cluster lives until the session ends, and would slow all tests after them."""
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Bench]:
    """A head, two workers and a PostgreSQL."""
    with bench() as made:
        yield made


@pytest.fixture
def cluster(running_cluster: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The cluster, with its credentials in this process for the test's time: another test's own Ray has none."""
    for name in ("PGPASSWORD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, running_cluster.environment[name])
    return running_cluster


@pytest.fixture(scope="session")
def uninterrupted(running_cluster: Bench) -> Path:
    """The store of a run that nothing happened to."""
    done = running_cluster.illada(*running_cluster.arguments("quiet"), "--wait")
    assert done.returncode == 0, done.stderr + running_cluster.log("quiet")
    return running_cluster.store("quiet")
