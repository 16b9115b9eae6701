"""Progress is throttled, readable from outside, and carries the request to stop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from illada.artifacts import StageInterrupted
from illada.durable import progress as progress_module
from illada.durable.progress import StageProgress, StageStatus, read_stages


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replaces the module's clocks."""
    made = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", made)
    monkeypatch.setattr(progress_module.time, "time", made)
    return made


def never() -> bool:
    """Nobody asks to stop."""
    return False


def make(
    engine: sa.Engine, heard: list[StageStatus] | None = None, stop: Callable[[], bool] = never, stage: str = "curate"
) -> StageProgress:
    """Progress of one stage."""
    return StageProgress(engine, "demo", stage, 0, stop, None if heard is None else heard.append)


def test_row_is_written_twice_a_second_at_most_and_ends_exact(engine: sa.Engine, clock: Clock) -> None:
    progress = make(engine)
    progress.begin("f" * 64)
    progress.attempt()
    progress.start(1000, "documents")
    writes: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, u, statement, *_: writes.append(statement))
    for done in range(1, 1001):
        clock.now += 0.01
        progress.update(done)
    assert len(writes) <= 20 + 20  # BEGIN and INSERT, for ten seconds
    progress.end("done")
    (row,) = read_stages(engine, "demo", live=True)
    assert (row.state, row.done, row.total, row.unit, row.seconds) == (
        "done",
        1000,
        1000,
        "documents",
        pytest.approx(10),
    )


def test_rate_and_eta_are_of_the_last_half_minute(engine: sa.Engine, clock: Clock) -> None:
    progress = make(engine)
    progress.start(10_000, "steps")
    progress.update(5000)  # resumed: half was there already
    assert (progress.status.rate, progress.status.eta) == (None, None)
    for second in range(1, 101):
        clock.now += 1
        progress.update(5000 + (10 if second <= 50 else 20) * second)
    assert progress.status.rate == pytest.approx(20, rel=0.02)
    assert progress.status.eta == pytest.approx(3000 / 20, rel=0.02)


def test_unknown_total_has_no_eta(engine: sa.Engine, clock: Clock) -> None:
    progress = make(engine)
    progress.start(None, "pages")
    progress.update(0)
    clock.now += 2
    progress.update(10)
    assert (progress.status.rate, progress.status.eta) == (5, None)


def test_figures_are_kept_and_stay_json(engine: sa.Engine, clock: Clock) -> None:
    heard: list[StageStatus] = []
    progress = make(engine, heard)
    progress.start(10, "steps")
    progress.update(1, loss=2.5, phase="warmup")
    clock.now += 1
    progress.update(2, loss=math.nan)
    assert heard[-1].figures == {"loss": "nan", "phase": "warmup"}
    (row,) = read_stages(engine, "demo", live=True)
    assert json.loads(json.dumps(dict(row.figures))) == {"loss": "nan", "phase": "warmup"}


def test_request_to_stop_interrupts_the_next_update(engine: sa.Engine) -> None:
    progress = make(engine, stop=lambda: True)
    progress.start(10, "steps")
    with pytest.raises(StageInterrupted, match="stage curate"):
        progress.update(1)


def test_unreachable_database_fails_no_stage(engine: sa.Engine) -> None:
    progress = make(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE illada_stages RENAME TO gone")
    progress.begin("f" * 64)
    progress.start(10, "steps")
    progress.update(1)
    progress.end("done")


def test_later_attempt_goes_on_counting(engine: sa.Engine) -> None:
    first = make(engine)
    first.begin("f" * 64)
    first.attempt()
    first.start(5, "steps")
    first.update(3, loss=1.0)
    again = make(engine)
    again.begin("f" * 64)
    again.attempt()
    (row,) = read_stages(engine, "demo", live=True)
    assert (row.attempt, row.done, row.figures) == (2, None, {})


def test_nothing_runs_without_a_driver(engine: sa.Engine) -> None:
    for position, stage in enumerate(("b", "a")):
        progress = StageProgress(engine, "demo", stage, position, never, None)
        progress.begin("f" * 64)
        if stage == "b":
            progress.end("done")
    assert [(row.stage, row.state) for row in read_stages(engine, "demo", live=True)] == [
        ("b", "done"),
        ("a", "running"),
    ]
    assert [(row.stage, row.state) for row in read_stages(engine, "demo", live=False)] == [
        ("b", "done"),
        ("a", "stopped"),
    ]
