"""What a stage has done, kept where other processes see it: a row per (run, stage), written at most twice a second.

The driver's display listens to the same updates. A stage learns here that it should stop.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from illada.artifacts import StageInterrupted
from illada.durable.database import stages

_WRITE_SECONDS = 0.5
_RATE_WINDOW_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """One stage of a run. `state`: pending, running, done, reused, failed or stopped.

    `rate` is units a second over the last half minute, `eta` seconds left by it; times are seconds since the epoch.
    """

    run_id: str
    stage: str
    position: int
    state: str = "pending"
    attempt: int = 0
    fingerprint: str = ""
    reused: bool = False
    done: float | None = None
    total: float | None = None
    unit: str = ""
    rate: float | None = None
    eta: float | None = None
    figures: Mapping[str, float | str] = field(default_factory=dict)
    started: float | None = None
    finished: float | None = None
    seconds: float | None = None
    updated: float = 0.0
    error: str | None = None


Listener = Callable[[StageStatus], None]


def tell_all(*listeners: Listener) -> Listener:
    """One listener that passes each update on to several."""

    def tell(status: StageStatus) -> None:
        for listener in listeners:
            listener(status)

    return tell


def read_stages(engine: sa.Engine, run_id: str, live: bool) -> list[StageStatus]:
    """All stages of a run, in the order they were first reached; without a live driver none is running."""
    query = sa.select(stages).where(stages.c.run_id == run_id).order_by(stages.c.position, stages.c.stage)
    with engine.begin() as connection:
        return [_seen(_status(row), live) for row in connection.execute(query)]


def read_all_stages(engine: sa.Engine, live: Set[str]) -> dict[str, list[StageStatus]]:
    """`read_stages` of every run, by run id, in one query; `live` are the runs that have a driver."""
    found: defaultdict[str, list[StageStatus]] = defaultdict(list)
    with engine.begin() as connection:
        for row in connection.execute(sa.select(stages).order_by(stages.c.position, stages.c.stage)):
            found[row.run_id].append(_seen(_status(row), row.run_id in live))
    return found


def reset_stages(engine: sa.Engine, run_id: str, names: Sequence[str] | None = None) -> None:
    """The stages of these names are to be gone through again; all of them in a new generation of the run."""
    chosen = sa.update(stages).where(stages.c.run_id == run_id)
    if names is not None:
        chosen = chosen.where(stages.c.stage.in_(names))
    with engine.begin() as connection:
        connection.execute(
            chosen.values(state="pending", reused=False, done=None, total=None, rate=None, eta=None, error=None)
        )


def forget_pending_stages(engine: sa.Engine, run_id: str) -> None:
    """A finished run has not come to these: they are of an older version of its graph."""
    with engine.begin() as connection:
        connection.execute(sa.delete(stages).where(stages.c.run_id == run_id, stages.c.state == "pending"))


class StageProgress:
    """The Progress of one stage of a run. Rows are advisory: an unreachable database never fails a stage here."""

    def __init__(
        self,
        engine: sa.Engine,
        run_id: str,
        stage: str,
        position: int,
        should_stop: Callable[[], bool],
        listener: Listener | None,
    ) -> None:
        self.engine = engine
        self.should_stop = should_stop
        self.listener = listener
        self._written = 0.0
        self._window: deque[tuple[float, float]] = deque()
        self.status = self._load(run_id, stage, position)

    def announce(self) -> None:
        """Tell the listener of a stage that finished in an earlier driver."""
        if self.listener is not None:
            self.listener(self.status)

    def begin(self, fingerprint: str) -> None:
        """The stage is being looked up or built."""
        self._set(
            state="running", fingerprint=fingerprint, started=time.time(), finished=None, seconds=None, error=None
        )

    def attempt(self) -> None:
        """A build starts."""
        self._window.clear()
        self._set(attempt=self.status.attempt + 1, done=None, total=None, unit="", rate=None, eta=None, figures={})

    def end(self, state: str, *, reused: bool = False, error: str | None = None) -> None:
        """The stage has come to `state`."""
        now = time.time()
        seconds = now - self.status.started if self.status.started is not None else None
        self._set(state=state, reused=reused, error=error, finished=now, seconds=seconds, eta=None)

    def start(self, total: float | None, unit: str) -> None:
        """Begin (or begin anew) a count of `total` units."""
        self._window.clear()
        self._set(total=total, unit=unit, done=0.0, rate=None, eta=None)

    def update(self, done: float, **figures: float | str) -> None:
        """`done` units so far. Raises StageInterrupted when the run is asked to stop."""
        now = time.monotonic()
        if not self._window or now - self._window[-1][0] >= _WRITE_SECONDS / 2:
            self._window.append((now, done))
            while now - self._window[0][0] > _RATE_WINDOW_SECONDS:
                self._window.popleft()
        rate, eta = self._speed(now, done)
        merged = {**self.status.figures, **{name: _plain(value) for name, value in figures.items()}}
        self.status = replace(self.status, done=float(done), rate=rate, eta=eta, figures=merged)
        if now - self._written >= _WRITE_SECONDS:
            self._publish()
        if self.should_stop():
            raise StageInterrupted(f"stage {self.status.stage} was asked to stop")

    def _speed(self, now: float, done: float) -> tuple[float | None, float | None]:
        first, base = self._window[0]
        if now - first < _WRITE_SECONDS or done <= base:
            return None, None
        rate = (done - base) / (now - first)
        total = self.status.total
        return rate, None if total is None else max(0.0, total - done) / rate

    def _set(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)
        self._publish()

    def _publish(self) -> None:
        self._written = time.monotonic()
        self.status = replace(self.status, updated=time.time())
        if self.listener is not None:
            self.listener(self.status)
        try:
            with self.engine.begin() as connection:
                connection.execute(self._upsert())
        except SQLAlchemyError:
            return  # the lease's heartbeat judges how long the database may be away

    def _upsert(self) -> sa.Executable:
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        values = {name: getattr(self.status, name) for name in StageStatus.__slots__}
        values["figures"] = json.dumps(values["figures"])
        return insert(stages).values(values).on_conflict_do_update(index_elements=["run_id", "stage"], set_=values)

    def _load(self, run_id: str, stage: str, position: int) -> StageStatus:
        with self.engine.begin() as connection:
            row = connection.execute(
                sa.select(stages).where(stages.c.run_id == run_id, stages.c.stage == stage)
            ).one_or_none()
        fresh = StageStatus(run_id=run_id, stage=stage, position=position)
        return fresh if row is None else replace(_status(row), position=position)


def _seen(stage: StageStatus, live: bool) -> StageStatus:
    return stage if live or stage.state != "running" else replace(stage, state="stopped", eta=None)


def _plain(value: float | str) -> float | str:
    if isinstance(value, str):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _status(row: sa.Row[Any]) -> StageStatus:
    values = dict(row._mapping)
    values["figures"] = json.loads(values["figures"])
    return StageStatus(**values)
