"""A run's history: what its drivers did, in order, for people."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from illada.artifacts import Progress
from illada.durable import events
from illada.durable.client import cancel
from illada.durable.engine import RunInterrupted, StageFailed, execute
from illada.durable.events import read_events, record_event
from illada.durable.runs import Run, RunRegistry

NewRun = Callable[..., Run]


def kinds(engine: sa.Engine) -> list[tuple[str | None, str]]:
    """(stage, kind) of every event."""
    return [(event.stage, event.kind) for event in read_events(engine, "demo")]


def test_failure_and_repetition(engine: sa.Engine, new_run: NewRun, chain) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("the corpus is empty")

    chain.on_build["b"] = fail
    with pytest.raises(StageFailed):
        execute(new_run(), engine, chain)
    first = [(None, "started"), ("a", "attempt"), ("a", "done"), ("b", "attempt"), ("b", "failed"), (None, "failed")]
    assert kinds(engine) == first
    (failed,) = [event for event in read_events(engine, "demo", stage="b") if event.kind == "failed"]
    assert failed.text.startswith("Traceback") and "in fail\n" in failed.text
    assert failed.text.endswith("ValueError: the corpus is empty")
    assert read_events(engine, "demo")[-1].text == "stage b: ValueError: the corpus is empty"
    chain.on_build.clear()
    execute(new_run(), engine, chain)
    assert kinds(engine)[6:] == [
        (None, "started"), ("b", "attempt"), ("b", "done"), ("c", "attempt"), ("c", "done"), (None, "finished"),
    ]  # fmt: skip
    last = read_events(engine, "demo")[-1]
    assert last.epoch == 2
    assert read_events(engine, "demo", after=last.id) == []
    assert [event.text for event in read_events(engine, "demo", stage="b") if event.kind == "attempt"] == ["1", "2"]


def test_cancel_and_vanished_artifact(engine: sa.Engine, new_run: NewRun, chain, tmp_path: Path) -> None:
    reached = threading.Event()

    def work(progress: Progress) -> None:
        reached.set()
        while True:
            progress.update(1)
            threading.Event().wait(0.01)

    chain.on_build["b"] = work
    canceller = threading.Thread(target=lambda: (reached.wait(), cancel(engine, "demo")))
    canceller.start()
    with pytest.raises(RunInterrupted):
        execute(new_run(), engine, chain, ttl=1.5)
    canceller.join()
    assert kinds(engine)[-3:] == [(None, "asked to stop"), ("b", "stopped"), (None, "cancelled")]
    chain.on_build.clear()
    next((tmp_path / "store" / "a").glob("*/record.json")).unlink()
    execute(new_run(), engine, chain)
    assert (None, "gone through again") in kinds(engine)


def test_driver_that_died_is_told_of(engine: sa.Engine, new_run: NewRun, chain) -> None:
    new_run()
    RunRegistry(engine).update("demo", status="running")
    execute(new_run(), engine, chain)
    assert kinds(engine)[0] == (None, "taken over")


def test_error_outside_of_a_stage_has_its_traceback(engine: sa.Engine, new_run: NewRun) -> None:
    def graph(runner):
        raise KeyError("nothing of the kind")

    with pytest.raises(KeyError):
        execute(new_run(), engine, graph)
    (event,) = [event for event in read_events(engine, "demo") if event.kind == "failed"]
    assert "in graph\n" in event.text


def test_history_is_bounded(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_KEPT", 50)
    monkeypatch.setattr(events, "_PRUNED_EVERY", 10)
    record_event(engine, "other", "started")
    for number in range(200):
        record_event(engine, "demo", "attempt", str(number), stage="a")
    kept = read_events(engine, "demo")
    assert 50 <= len(kept) < 60
    assert kept[-1].text == "199"
    assert len(read_events(engine, "other")) == 1


def test_long_text_keeps_both_ends(engine: sa.Engine) -> None:
    record_event(engine, "demo", "failed", "first" + "x" * 100_000 + "last")
    (event,) = read_events(engine, "demo")
    assert event.text.startswith("first") and event.text.endswith("last")
    assert len(event.text) < 21_000


def test_unreachable_database_fails_nothing(tmp_path: Path) -> None:
    record_event(sa.create_engine(f"sqlite:///{tmp_path / 'no' / 'such.db'}"), "demo", "started")
