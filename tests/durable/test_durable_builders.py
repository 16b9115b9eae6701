"""One builder of an artifact at a time on all machines: a lease in the run database, whose epoch fences the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from illada.artifacts import StageIdentity, Store, claim
from illada.durable.client import cancel, status
from illada.durable.engine import RunInterrupted, StageFailed, execute
from illada.durable.lease import Lease
from illada.durable.runs import Run

NewRun = Callable[..., Run]
IDENTITY = StageIdentity(stage="a", version=1, config={"value": 1}, inputs={})
NAME = f"artifact/a/{IDENTITY.fingerprint[:32]}"


@pytest.fixture(params=["files", "s3"])
def run(request: pytest.FixtureRequest, new_run: NewRun) -> Run:
    """A run whose store is on files, or in a bucket."""
    made = new_run()
    return made if request.param == "files" else replace(made, store=f"{request.getfixturevalue('s3_url')}/store")


def waiting(engine: sa.Engine) -> bool:
    stages = status(engine, "demo")[0].stages
    return bool(stages) and "another run builds" in str(stages[0].figures.get("waiting"))


def test_the_second_builder_waits_and_uses_what_the_first_made(engine: sa.Engine, run: Run, chain: Any) -> None:
    store = Store(run.store)

    def first(lease: Lease) -> None:
        deadline = time.monotonic() + 30
        while not waiting(engine) and time.monotonic() < deadline:
            time.sleep(0.05)
        with store.attempt(IDENTITY) as attempt:
            (attempt.output / "value").write_text("from the first")
            store.publish(attempt, {}, {}, time.time())
        lease.__exit__(None, None, None)

    lease = Lease(engine, NAME)
    lease.__enter__()
    thread = threading.Thread(target=first, args=(lease,))
    thread.start()
    execute(run, engine, chain)
    thread.join()
    assert chain.built == ["b", "c"]
    found = store.find(IDENTITY)
    assert found is not None and found.path("value").read_text() == "from the first"


def test_cancelling_ends_the_waiting(engine: sa.Engine, run: Run, chain: Any) -> None:
    def stop() -> None:
        while not waiting(engine):
            time.sleep(0.05)
        stopped.append(time.monotonic())
        cancel(engine, "demo")

    stopped: list[float] = []
    thread = threading.Thread(target=stop)
    with Lease(engine, NAME):
        thread.start()
        with pytest.raises(RunInterrupted):
            execute(run, engine, chain)
        assert time.monotonic() - stopped[0] < 5
    thread.join()
    assert chain.built == []


def test_epochs_rise_from_builder_to_builder_and_above_what_the_store_has(
    engine: sa.Engine, run: Run, chain: Any
) -> None:
    def fail(progress: Any) -> None:
        raise ValueError("not this time")

    chain.on_build["a"] = fail
    for _ in range(2):
        with pytest.raises(StageFailed, match="not this time"):
            execute(run, engine, chain)
    with Lease(engine, NAME) as lease:
        assert lease.epoch == 3
    claim(Store(run.store).folder("a", IDENTITY.fingerprint) / "work", 40)  # as a driver with another database left it
    chain.on_build.clear()
    execute(run, engine, chain)
    artifact = Store(run.store).find(IDENTITY)
    assert artifact is not None and artifact.record["epoch"] == 41
