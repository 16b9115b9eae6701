"""What happened to a run, in order: written by its drivers and by whoever submits, cancels or tends it; read by
`illada logs`.

Events are for people. Nothing depends on them: an unreachable database loses one and fails nothing. A run keeps its
latest `_KEPT`, and a long text its beginning and its end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from illada.artifacts.provenance import redact
from illada.durable.database import events

_KEPT = 2000
_PRUNED_EVERY = 100
_LONGEST_TEXT = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of a run's history, or several with a traceback. `at` is in seconds since the epoch; `stage` None means
    the run as a whole; `epoch` is the fencing epoch of the driver it comes from, 0 for what happened outside of one.
    """

    id: int
    run_id: str
    stage: str | None
    at: float
    epoch: int
    kind: str
    text: str


def record_event(
    engine: sa.Engine, run_id: str, kind: str, text: str = "", *, stage: str | None = None, epoch: int = 0
) -> None:
    """Append an event to the run's history; never raises for a database that cannot be reached."""
    (text,) = redact([text])
    if len(text) > _LONGEST_TEXT:
        head, tail = _LONGEST_TEXT // 4, _LONGEST_TEXT * 3 // 4
        text = f"{text[:head]}\n[... {len(text) - head - tail} characters ...]\n{text[-tail:]}"
    row = {"run_id": run_id, "stage": stage, "at": time.time(), "epoch": epoch, "kind": kind, "text": text}
    try:
        with engine.begin() as connection:
            number: int = connection.execute(sa.insert(events).values(row).returning(events.c.id)).scalar_one()
            if number % _PRUNED_EVERY == 0:
                _prune(connection, run_id)
    except SQLAlchemyError:
        return


def read_events(engine: sa.Engine, run_id: str, *, stage: str | None = None, after: int = 0) -> list[Event]:
    """The run's events with an id above `after`, oldest first; of one stage only if it is given."""
    query = sa.select(events).where(events.c.run_id == run_id, events.c.id > after).order_by(events.c.id)
    if stage is not None:
        query = query.where(events.c.stage == stage)
    with engine.begin() as connection:
        return [Event(**row._mapping) for row in connection.execute(query)]


def _prune(connection: sa.Connection, run_id: str) -> None:
    mine = events.c.run_id == run_id
    oldest = sa.select(events.c.id).where(mine).order_by(events.c.id.desc()).offset(_KEPT).limit(1)
    limit = connection.execute(oldest).scalar_one_or_none()
    if limit is not None:
        connection.execute(sa.delete(events).where(mine, events.c.id <= limit))
