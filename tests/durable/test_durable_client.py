"""Runs as seen and stopped from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from illada.durable.client import cancel, status
from illada.durable.database import leases
from illada.durable.engine import execute
from illada.durable.lease import Lease
from illada.durable.runs import Run, RunRegistry, UnknownRun

NewRun = Callable[..., Run]


def test_no_runs(engine: sa.Engine) -> None:
    assert status(engine) == []
    with pytest.raises(UnknownRun):
        status(engine, "demo")
    with pytest.raises(UnknownRun):
        cancel(engine, "demo")


def test_state_follows_run_and_lease(engine: sa.Engine, new_run: NewRun) -> None:
    new_run()
    assert (status(engine)[0].state, status(engine)[0].resume) == ("created", "illada resume demo")
    with Lease(engine, "demo"):
        RunRegistry(engine).update("demo", status="running")
        (run,) = status(engine)
        assert (run.state, run.resume, run.epoch) == ("running", None, 1)
        assert run.driver is not None
        with engine.begin() as connection:
            connection.execute(sa.update(leases).values(stop=True))
        assert status(engine)[0].state == "stopping"
    (run,) = status(engine)
    assert (run.state, run.driver, run.resume) == ("stopped", None, "illada resume demo")
    json.dumps(run.as_json())


def test_cancel_of_a_driver_that_does_not_hear_returns_in_time(engine: sa.Engine, new_run: NewRun) -> None:
    new_run()
    with Lease(engine, "demo"):
        before = time.monotonic()
        assert cancel(engine, "demo", wait=0.5).state == "stopping"
        assert time.monotonic() - before < 5


def test_cancel_without_a_driver(engine: sa.Engine, new_run: NewRun, chain) -> None:
    new_run()
    assert cancel(engine, "demo").state == "cancelled"
    execute(new_run(), engine, chain)
    assert cancel(engine, "demo").state == "finished", "nothing is left to cancel"


def test_interrupted_run_may_be_cancelled_afterwards(engine: sa.Engine, new_run: NewRun, chain) -> None:
    execute(new_run(), engine, chain)
    RunRegistry(engine).update("demo", status="interrupted")
    assert cancel(engine, "demo").state == "cancelled"
    execute(new_run(), engine, chain)
    assert status(engine)[0].state == "finished"
