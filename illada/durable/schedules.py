"""Schedules: a run for each slot of a cron expression, exactly one, whoever fires it and whatever was down meanwhile.

A schedule has a cursor: every slot up to it has been fired. A slot is fired in one transaction, which inserts the slot
create-if-absent, registers its run and moves the cursor: a crash anywhere neither loses nor doubles it, and any number
of schedulers may work at once. Slots that passed while no scheduler ran are fired when one is back, in order.

A fired run waits until the run of the schedule's earlier slots is over (finished, failed or cancelled), then it becomes
`wanted`: a job on the schedule's Ray cluster drives it (`illada.durable.tend`).
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from illada.config import ConfigError, RunConfig, dump_config
from illada.durable.cron import check_cron, slots_after
from illada.durable.database import clock, leases, runs, schedules, slots
from illada.durable.errors import nearest
from illada.durable.events import record_event
from illada.durable.runs import new_run

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_AT_ONCE = 1000  # slots of a schedule fired in one go, so that a scheduler hears when it should stop

Parse = Callable[..., RunConfig]  # `workflows.registry.parse_workflow`: durable knows no workflow
Notice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A cron expression in a time zone, and what to run on which Ray cluster, with the code of `package`.

    `cursor` (seconds since the epoch): slots up to it have been fired, or lie in a pause.
    """

    name: str
    cron: str
    timezone: str
    config_yaml: str
    address: str
    package: str
    paused: bool
    created: float
    cursor: float

    @property
    def next(self) -> int | None:
        """The slot to fire next, None while paused."""
        return None if self.paused else next(slots_after(self.cron, self.timezone, self.cursor))


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A fired slot: when it was due and when it was fired (seconds since the epoch), its run, and the run's state.

    `state` is the run's status, "queued" before it is its turn. `error` says why there is no run.
    """

    schedule: str
    slot: int
    run_id: str
    fired: float
    state: str
    error: str | None


def add_schedule(
    engine: sa.Engine, name: str, cron: str, timezone: str, config: RunConfig, *, address: str, package: str
) -> Schedule:
    """Register a schedule; its first slot is the next one from now.

    Raises:
        ConfigError: a name that cannot be part of a run id or is taken, a bad expression or time zone.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"schedule {name!r}: use at most 40 of a-z, 0-9, '.', '_' and '-'; runs are named after it")
    now = _now(engine)
    check_cron(cron, timezone, now)
    made = Schedule(
        name=name,
        cron=cron,
        timezone=timezone,
        config_yaml=dump_config(config),
        address=address,
        package=package,
        paused=False,
        created=now,
        cursor=now,
    )
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(schedules).values({key: getattr(made, key) for key in Schedule.__slots__}))
    except IntegrityError:
        raise ConfigError(f"schedule {name!r} exists; take another name, or remove it first") from None
    return made


def get_schedule(engine: sa.Engine, name: str) -> Schedule:
    """The schedule of this name. Raises ConfigError naming the nearest ones."""
    found = {schedule.name: schedule for schedule in list_schedules(engine)}
    if name not in found:
        raise ConfigError(f"no schedule {name!r}; {nearest(name, list(found), 'schedules')}")
    return found[name]


def list_schedules(engine: sa.Engine) -> list[Schedule]:
    """All schedules, by name."""
    with engine.begin() as connection:
        rows = connection.execute(sa.select(schedules).order_by(schedules.c.name))
        return [Schedule(**row._mapping) for row in rows]


def read_slots(engine: sa.Engine, name: str, limit: int | None = None) -> list[Slot]:
    """The latest fired slots of a schedule, the last one first; also of a schedule that was removed."""
    waiting = sa.and_(runs.c.status == "created", sa.not_(runs.c.wanted))
    state = sa.case((runs.c.run_id.is_(None), "refused"), (waiting, "queued"), else_=runs.c.status)
    query = (
        sa.select(slots, state.label("state"))
        .outerjoin(runs, runs.c.run_id == slots.c.run_id)
        .where(slots.c.schedule == name)
        .order_by(slots.c.slot.desc())
        .limit(limit)
    )
    with engine.begin() as connection:
        return [Slot(**row._mapping) for row in connection.execute(query)]


def pause_schedule(engine: sa.Engine, name: str) -> None:
    """Fire nothing and start nothing of the schedule from now on; slots that pass are skipped. Raises ConfigError."""
    get_schedule(engine, name)
    with engine.begin() as connection:
        connection.execute(sa.update(schedules).where(schedules.c.name == name).values(paused=True))


def resume_schedule(engine: sa.Engine, name: str) -> Schedule:
    """End a pause: the next slot is the first one from now. No effect without a pause. Raises ConfigError."""
    get_schedule(engine, name)
    with engine.begin() as connection:
        paused = sa.update(schedules).where(schedules.c.name == name, schedules.c.paused)
        connection.execute(paused.values(paused=False, cursor=clock(engine)))
    return get_schedule(engine, name)


def remove_schedule(engine: sa.Engine, name: str) -> list[str]:
    """Forget the schedule; its slots and runs stay. Runs that wait are cancelled: their ids. Raises ConfigError."""
    get_schedule(engine, name)
    mine = sa.select(slots.c.run_id).where(slots.c.schedule == name)
    waiting = sa.update(runs).where(runs.c.run_id.in_(mine), runs.c.status == "created", sa.not_(runs.c.wanted))
    with engine.begin() as connection:
        connection.execute(sa.delete(schedules).where(schedules.c.name == name))
        cancelled = waiting.values(status="cancelled", updated=time.time()).returning(runs.c.run_id)
        return sorted(connection.execute(cancelled).scalars())


def backfill(engine: sa.Engine, parse: Parse, name: str, first: float, last: float) -> list[Slot]:
    """Fire the slots from `first` to `last` that have not been; returns them. The cursor stays where it is.

    Raises:
        ConfigError: no such schedule, or an interval that is empty, lies in the future or holds no slot.
    """
    schedule = get_schedule(engine, name)
    if not first <= last <= _now(engine):
        raise ConfigError(
            "backfill: --from must come before --to, and --to must have passed: later slots come by themselves"
        )
    due = list(itertools.takewhile(lambda slot: slot <= last, slots_after(schedule.cron, schedule.timezone, first - 1)))
    if not due:
        raise ConfigError(f"schedule {name!r}: cron {schedule.cron!r} has no slot in this interval")
    fired = [slot for slot in due if _fire(engine, parse, schedule, slot, move=False)]
    found = {slot.slot: slot for slot in read_slots(engine, name)}
    return [found[slot] for slot in fired]


def tick(engine: sa.Engine, parse: Parse, notice: Notice, now: float | None = None) -> bool:
    """Fire every slot that is due and let each schedule's next run start; whether there is more to fire at once.

    `now` (seconds since the epoch) is the database's clock if not given, so that schedulers agree on it.
    """
    until = _now(engine) if now is None else now
    more = False
    for schedule in list_schedules(engine):
        if schedule.paused:
            continue
        due = _due(schedule, until)
        for slot in itertools.islice(due, _AT_ONCE):
            if _fire(engine, parse, schedule, slot, move=True):
                notice(f"{schedule.name}: slot {_utc(slot)} fired, run {_run_id(schedule.name, slot)}")
        more |= next(due, None) is not None
        started = _start_next(engine, schedule.name)
        if started is not None:
            notice(f"{schedule.name}: run {started} may start at {schedule.address}")
    return more


def _due(schedule: Schedule, until: float) -> Iterator[int]:
    return itertools.takewhile(
        lambda slot: slot <= until, slots_after(schedule.cron, schedule.timezone, schedule.cursor)
    )


def _fire(engine: sa.Engine, parse: Parse, schedule: Schedule, slot: int, *, move: bool) -> bool:
    """Insert the slot with its run, and move the cursor up to it; False when another scheduler has done so."""
    insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    run_id, error, run = _run_id(schedule.name, slot), None, None
    try:
        config = parse(schedule.config_yaml, where=f"schedule {schedule.name}", name=run_id)
        run = new_run(run_id, dump_config(config), config.identity(), config.placement.store, [])
        run |= {"address": schedule.address, "package": schedule.package}
    except ConfigError as problem:  # of a newer illada, say: the slot is kept with its reason, later ones go on
        error = str(problem)
    with engine.begin() as connection:
        same = (schedules.c.name == schedule.name, schedules.c.created == schedule.created)
        row = connection.execute(sa.select(schedules.c.paused, schedules.c.cursor).where(*same).with_for_update())
        state = row.one_or_none()
        if state is None or (move and (state.paused or state.cursor >= slot)):
            return False
        if move:
            connection.execute(sa.update(schedules).where(*same).values(cursor=float(slot)))
        values = {"schedule": schedule.name, "slot": slot, "run_id": run_id, "fired": time.time(), "error": error}
        made = insert(slots).values(values)
        key = [slots.c.schedule, slots.c.slot]
        again = made.on_conflict_do_update(index_elements=key, set_=values, where=slots.c.error.is_not(None))
        if connection.execute(again.returning(slots.c.slot)).one_or_none() is None:
            return False
        if run is not None:
            kept = connection.execute(insert(runs).values(run).on_conflict_do_nothing().returning(runs.c.run_id))
            if kept.one_or_none() is None:
                error = f"a run {run_id} existed already, and is left alone"
                mine = sa.update(slots).where(slots.c.schedule == schedule.name, slots.c.slot == slot)
                connection.execute(mine.values(error=error))
    record_event(engine, run_id, "scheduled", error or f"{schedule.name}, for {_utc(slot)}")
    return True


def _start_next(engine: sa.Engine, name: str) -> str | None:
    """Make the schedule's earliest waiting run wanted, unless one of its runs is at work: its id."""
    mine = sa.select(runs.c.run_id).join(slots, slots.c.run_id == runs.c.run_id).where(slots.c.schedule == name)
    held = sa.exists().where(leases.c.run_id == runs.c.run_id, leases.c.expires >= clock(engine))
    at_work = mine.where(sa.or_(sa.and_(runs.c.wanted, runs.c.status != "finished"), held)).limit(1)
    waiting = mine.where(runs.c.status == "created", sa.not_(runs.c.wanted)).order_by(slots.c.slot).limit(1)
    with engine.begin() as connection:
        lock = sa.select(schedules.c.paused).where(schedules.c.name == name).with_for_update()
        paused = connection.execute(lock).scalar_one_or_none()
        if paused is not False or connection.execute(at_work).first() is not None:
            return None
        run_id: str | None = connection.execute(waiting).scalar_one_or_none()
        if run_id is not None:
            started = sa.update(runs).where(runs.c.run_id == run_id)
            connection.execute(started.values(wanted=True, next_job=0.0, updated=time.time()))
        return run_id


def _now(engine: sa.Engine) -> float:
    with engine.begin() as connection:
        return float(connection.execute(sa.select(clock(engine))).scalar_one())


def _run_id(name: str, slot: int) -> str:
    return f"{name}-{datetime.fromtimestamp(slot, UTC):{'%Y%m%dt%H%Mz' if slot % 60 == 0 else '%Y%m%dt%H%M%Sz'}}"


def _utc(slot: int) -> str:
    return f"{datetime.fromtimestamp(slot, UTC):%Y-%m-%d %H:%M:%S} UTC"
