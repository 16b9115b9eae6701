"""One cluster for all tests of a session: it takes a quarter of a minute to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench import Bench, bench
from chain import seed

if TYPE_CHECKING:
    from conftest import TinyRun

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cluster tests last: their cluster lives until the session ends, and would slow all tests after them."""
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def running_cluster(tiny_corpus: Path) -> Iterator[Bench]:
    """A head, two workers and a PostgreSQL."""
    import ray

    ray.shutdown()  # another room's may still be up
    with bench(tiny_corpus) as made:
        yield made


@pytest.fixture
def cluster(running_cluster: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The cluster, with its credentials in this process for the test's time: another test's own Ray has none."""
    for name in ("PGPASSWORD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, running_cluster.environment[name])
    return running_cluster


@pytest.fixture(scope="session")
def uninterrupted(running_cluster: Bench, tiny_run: TinyRun) -> Path:
    """The store of a run that nothing happened to: most of it was built on this machine alone."""
    seed(running_cluster.store("quiet"), tiny_run.store, before="evaluate-sft")
    done = running_cluster.illada(*running_cluster.arguments("quiet"), "--wait")
    assert done.returncode == 0, done.stderr + running_cluster.log("quiet")
    return running_cluster.store("quiet")
