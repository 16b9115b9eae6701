"""Every slot becomes one run, whatever happens between its turn and now; and one run of a schedule at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa
import yaml
from postgres_server import Server, private_server

from illada.config import ConfigError, RunConfig
from illada.durable import scheduler
from illada.durable import schedules as module
from illada.durable.database import open_database, schedules, slots
from illada.durable.events import read_events
from illada.durable.lease import Lease
from illada.durable.runs import RunRegistry
from illada.durable.scheduler import scheduler_round, serve
from illada.durable.schedules import (
    Schedule,
    add_schedule,
    backfill,
    get_schedule,
    list_schedules,
    pause_schedule,
    read_slots,
    remove_schedule,
    resume_schedule,
    tick,
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A private PostgreSQL."""
    with private_server() as made:
        yield made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A fresh run database of either kind."""
    url = f"sqlite:///{tmp_path / 'illada.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url
        raw = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        with raw.connect() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        raw.dispose()
    opened = open_database(url)
    yield opened
    opened.dispose()


class Refresh(RunConfig):
    """A workflow's configuration with something of its own."""

    workflow: Literal["refresh"] = "refresh"
    corpus: str = "news"


def parse(text: str, where: str = "", **changes: Any) -> RunConfig:
    """What `workflows.registry.parse_workflow` does, for this record."""
    raw = {**yaml.safe_load(text), **changes}
    if raw["corpus"] == "gone":
        raise ConfigError(f"{where}: no such corpus")
    return Refresh.model_validate(raw)


DAY = 86_400
MIDNIGHT = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())


def silent(_: str) -> None:
    """Nobody listens."""


@pytest.fixture
def add(engine: sa.Engine) -> Callable[..., Schedule]:
    """Adds a schedule as if at the beginning of 2024."""

    def make(name: str = "news", cron: str = "0 3 * * *", since: float = MIDNIGHT, **config: Any) -> Schedule:
        made = add_schedule(
            engine, name, cron, "UTC", Refresh(name=name, **config), address="http://127.0.0.1:8265", package="0" * 64
        )
        with engine.begin() as connection:
            mine = sa.update(schedules).where(schedules.c.name == name)
            connection.execute(mine.values(cursor=float(since), created=float(since)))
        return replace(made, cursor=float(since), created=float(since))

    return make


def states(engine: sa.Engine, name: str = "news") -> dict[str, str]:
    """State of the run of every fired slot, the first slot first."""
    return {slot.run_id: slot.state for slot in reversed(read_slots(engine, name))}


def wanted(engine: sa.Engine) -> list[str]:
    """Runs that jobs should drive now."""
    return [run.run_id for run in RunRegistry(engine).list() if run.wanted]


def end(engine: sa.Engine, run_id: str, status: str) -> None:
    """What the driver of a run records at its end."""
    RunRegistry(engine).update(run_id, status=status, wanted=False)


def test_slots_that_passed_are_fired_once_in_order(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    heard: list[str] = []
    assert not tick(engine, parse, heard.append, now=MIDNIGHT + 3 * 3600 - 1)
    assert states(engine) == {}
    tick(engine, parse, heard.append, now=MIDNIGHT + 2 * DAY + 4 * 3600)
    names = ["news-20240101t0300z", "news-20240102t0300z", "news-20240103t0300z"]
    assert list(states(engine)) == names
    assert wanted(engine) == names[:1]
    tick(engine, parse, silent, now=MIDNIGHT + 2 * DAY + 5 * 3600)
    assert list(states(engine)) == names
    assert heard[0] == "news: slot 2024-01-01 03:00:00 UTC fired, run news-20240101t0300z"
    assert heard[3:] == ["news: run news-20240101t0300z may start at http://127.0.0.1:8265"]


def test_run_is_registered_complete(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add(corpus="web")
    tick(engine, parse, silent, now=MIDNIGHT + DAY)
    run = RunRegistry(engine).get("news-20240101t0300z")
    config = parse(run.config_yaml)
    assert (config.name, run.address, run.package) == (run.run_id, "http://127.0.0.1:8265", "0" * 64)
    assert run.identity == config.identity()
    assert run.identity["corpus"] == "web"
    again = RunRegistry(engine).create(run.run_id, run.config_yaml, config.identity(), run.store, [])
    assert again.fingerprint == run.fingerprint, "a driver takes it up as it is"
    assert [event.kind for event in read_events(engine, run.run_id)] == ["scheduled"]


@pytest.mark.parametrize("over", ["finished", "failed", "cancelled", "interrupted"])
def test_one_run_of_a_schedule_at_a_time(engine: sa.Engine, add: Callable[..., Schedule], over: str) -> None:
    add()
    later = MIDNIGHT + 2 * DAY
    tick(engine, parse, silent, now=later)
    first, second = states(engine)
    assert (wanted(engine), states(engine)[second]) == ([first], "queued")
    RunRegistry(engine).update(first, status="failed")  # for want of a node: another job will go on with it
    tick(engine, parse, silent, now=later)
    assert wanted(engine) == [first]
    end(engine, first, over)
    tick(engine, parse, silent, now=later)
    assert wanted(engine) == [second]


def test_run_that_is_driven_by_hand_is_waited_for(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    tick(engine, parse, silent, now=MIDNIGHT + 2 * DAY)
    first, second = states(engine)
    end(engine, first, "cancelled")
    with Lease(engine, first):
        tick(engine, parse, silent, now=MIDNIGHT + 2 * DAY)
        assert wanted(engine) == []
    tick(engine, parse, silent, now=MIDNIGHT + 2 * DAY)
    assert wanted(engine) == [second]


def test_cancelled_while_it_waits_never_starts(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    tick(engine, parse, silent, now=MIDNIGHT + 3 * DAY)
    first, second, third = states(engine)
    end(engine, second, "cancelled")
    end(engine, first, "finished")
    tick(engine, parse, silent, now=MIDNIGHT + 3 * DAY)
    assert wanted(engine) == [third]


def test_schedules_do_not_wait_for_each_other(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add("news")
    add("web")
    tick(engine, parse, silent, now=MIDNIGHT + DAY)
    assert sorted(wanted(engine)) == ["news-20240101t0300z", "web-20240101t0300z"]


def test_pause_skips_and_holds_back(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    tick(engine, parse, silent, now=MIDNIGHT + 2 * DAY)
    first, second = states(engine)
    pause_schedule(engine, "news")
    assert get_schedule(engine, "news").next is None
    end(engine, first, "finished")
    tick(engine, parse, silent, now=MIDNIGHT + 9 * DAY)
    assert (list(states(engine)), wanted(engine)) == ([first, second], [])
    resumed = resume_schedule(engine, "news")
    assert resumed.next is not None and resumed.next > resumed.cursor > MIDNIGHT + 9 * DAY
    tick(engine, parse, silent)
    assert (list(states(engine)), wanted(engine)) == ([first, second], [second])
    assert resume_schedule(engine, "news") == resumed, "no pause, nothing to skip"
    skipped = backfill(engine, parse, "news", MIDNIGHT + 2 * DAY, MIDNIGHT + 4 * DAY)
    assert [slot.run_id for slot in skipped] == ["news-20240103t0300z", "news-20240104t0300z"]


def test_backfill_fires_what_was_not(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add(since=MIDNIGHT + 10 * DAY)
    made = backfill(engine, parse, "news", MIDNIGHT, MIDNIGHT + 2 * DAY)
    assert [slot.run_id for slot in made] == ["news-20240101t0300z", "news-20240102t0300z"]
    assert {slot.state for slot in made} == {"queued"}
    assert get_schedule(engine, "news").cursor == MIDNIGHT + 10 * DAY
    more = backfill(engine, parse, "news", MIDNIGHT + 3 * 3600, MIDNIGHT + 3 * DAY)
    assert [slot.run_id for slot in more] == ["news-20240103t0300z"]
    tick(engine, parse, silent, now=MIDNIGHT + 11 * DAY)
    assert wanted(engine) == ["news-20240101t0300z"], "the oldest slot comes first"


def test_backfill_beyond_the_cursor_is_no_second_firing(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    backfill(engine, parse, "news", MIDNIGHT, MIDNIGHT + 2 * DAY)
    tick(engine, parse, silent, now=MIDNIGHT + 3 * DAY)
    assert len(states(engine)) == len(RunRegistry(engine).list()) == 3


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (MIDNIGHT + DAY, MIDNIGHT, "--from must come before --to"),
        (MIDNIGHT, 4e9, "--to must have passed"),
        (MIDNIGHT + 4 * 3600, MIDNIGHT + 5 * 3600, "has no slot in this interval"),
    ],
)
def test_backfill_of_nothing_is_refused(
    engine: sa.Engine, add: Callable[..., Schedule], first: float, last: float, message: str
) -> None:
    add()
    with pytest.raises(ConfigError, match=message):
        backfill(engine, parse, "news", first, last)


def test_removal_keeps_history(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    tick(engine, parse, silent, now=MIDNIGHT + 3 * DAY)
    first, second, third = states(engine)
    assert remove_schedule(engine, "news") == [second, third]
    assert states(engine) == {first: "created", second: "cancelled", third: "cancelled"}
    assert (list_schedules(engine), wanted(engine)) == ([], [first])
    tick(engine, parse, silent, now=MIDNIGHT + 9 * DAY)
    assert len(states(engine)) == 3
    add(since=MIDNIGHT)  # the name is free again; what was fired stays fired
    tick(engine, parse, silent, now=MIDNIGHT + 4 * DAY)
    assert len(states(engine)) == len(RunRegistry(engine).list()) == 4


def test_configuration_that_fits_no_longer_costs_its_slot_only(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add(corpus="gone")
    add("web")
    tick(engine, parse, silent, now=MIDNIGHT + DAY)
    (slot,) = read_slots(engine, "news")
    assert (slot.state, slot.error) == ("refused", "schedule news: no such corpus")
    assert wanted(engine) == ["web-20240101t0300z"]
    with engine.begin() as connection:
        repaired = yaml.safe_dump(Refresh(name="news").model_dump(mode="json"))
        connection.execute(sa.update(schedules).where(schedules.c.name == "news").values(config_yaml=repaired))
    (again,) = backfill(engine, parse, "news", MIDNIGHT, MIDNIGHT + DAY)
    assert (again.state, again.error) == ("queued", None)


def test_run_that_exists_is_left_alone(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    RunRegistry(engine).create("news-20240101t0300z", "x: 1", {"x": 1}, "/store", [])
    tick(engine, parse, silent, now=MIDNIGHT + DAY)
    (slot,) = read_slots(engine, "news")
    assert slot.error == "a run news-20240101t0300z existed already, and is left alone"
    assert RunRegistry(engine).get(slot.run_id).config_yaml == "x: 1"


def test_crash_between_slots_loses_and_doubles_none(
    engine: sa.Engine, add: Callable[..., Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler dies inside of every transaction once, at each of its statements."""
    add(cron="0 * * * *")
    until = MIDNIGHT + 6 * 3600
    for statement in range(1, 40):
        seen = 0

        def die(connection: Any, cursor: Any, text: str, *_: Any, limit: int = statement) -> None:
            nonlocal seen
            seen += 1
            if seen == limit:
                raise KeyboardInterrupt

        sa.event.listen(engine, "before_cursor_execute", die)
        try:
            tick(engine, parse, silent, now=until)
        except KeyboardInterrupt:
            pass
        finally:
            sa.event.remove(engine, "before_cursor_execute", die)
        with engine.begin() as connection:
            fired = list(connection.execute(sa.select(slots.c.slot).order_by(slots.c.slot)).scalars())
            cursor = connection.execute(sa.select(schedules.c.cursor)).scalar_one()
        assert fired == [MIDNIGHT + 3600 * hour for hour in range(1, len(fired) + 1)]
        assert cursor == (fired[-1] if fired else MIDNIGHT)
        assert {run.run_id for run in RunRegistry(engine).list()} == set(states(engine))
    assert len(fired) == 6


def test_many_schedulers_at_once(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add(cron="* * * * *")
    heard: list[str] = []
    crowd = [threading.Thread(target=lambda: tick(engine, parse, heard.append, now=MIDNIGHT + 3600)) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert len(states(engine)) == len(RunRegistry(engine).list()) == 60
    assert sum("fired" in line for line in heard) == 60
    assert sum("may start" in line for line in heard) == 1


def test_long_absence_is_caught_up_in_portions(
    engine: sa.Engine, add: Callable[..., Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 50)
    add(cron="* * * * *")
    assert tick(engine, parse, silent, now=MIDNIGHT + 6060)
    assert len(states(engine)) == 50
    assert tick(engine, parse, silent, now=MIDNIGHT + 6060)
    assert not tick(engine, parse, silent, now=MIDNIGHT + 6060)
    assert len(states(engine)) == 101


@pytest.mark.parametrize(
    ("name", "cron", "timezone", "message"),
    [
        ("News", "0 3 * * *", "UTC", "schedule 'News': use at most 40 of a-z"),
        ("x" * 41, "0 3 * * *", "UTC", "use at most 40"),
        ("../news", "0 3 * * *", "UTC", "use at most 40"),
        ("news", "0 3 * * *", "Mars/Olympus", "timezone 'Mars/Olympus': there is none"),
        ("news", "0 3 * * *", "../../etc/passwd", "there is none of this name"),
        ("news", "0 3 * *", "UTC", "write minute, hour, day of month, month, day of week"),
        ("news", "tomorrow", "UTC", "write minute, hour"),
        ("news", "", "UTC", "write minute, hour"),
        ("news", "61 3 * * *", "UTC", "out of range"),
        ("news", "R 3 * * *", "UTC", "write minute, hour"),
        ("news", "H 3 * * *", "UTC", "write minute, hour"),
        ("news", "0 0 30 2 *", "UTC", r"cron '0 0 30 2 \*' never fires: no date fits it"),
    ],
)
def test_schedule_that_cannot_work_is_refused(
    engine: sa.Engine, name: str, cron: str, timezone: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        add_schedule(engine, name, cron, timezone, Refresh(name="news"), address="http://x:1", package="0")
    assert list_schedules(engine) == []


def test_name_is_taken_once(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add()
    with pytest.raises(ConfigError, match="schedule 'news' exists"):
        add()
    for call in (pause_schedule, resume_schedule, remove_schedule, get_schedule):
        with pytest.raises(ConfigError, match=r"no schedule 'newz'; did you mean news\?"):
            call(engine, "newz")


def test_service_rides_out_an_outage_and_ends_when_asked(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add(since=MIDNIGHT)
    stop, heard, calls = threading.Event(), [], 0

    def tend(engine: sa.Engine, notice: Callable[[str], None]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise sa.exc.OperationalError("select 1", {}, Exception("server closed the connection"))
        stop.set()

    serve(engine, parse, stop, heard.append, tend=tend)
    assert calls == 2
    told = [line for line in heard if "database" in line]
    assert told[0].startswith("the database is out of reach") and told[1] == "the database is back"


def test_service_does_not_repeat_itself(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_EVERY_SECONDS", 0.01)
    stop, heard, rounds = threading.Event(), [], iter(["down", "down", "down", None, "down"])

    def tend(engine: sa.Engine, notice: Callable[[str], None]) -> None:
        line = next(rounds, "end")
        if line == "end":
            stop.set()
        elif line is not None:
            notice(f"the cluster is {line}")

    serve(engine, parse, stop, heard.append, tend=tend)
    assert heard == ["the cluster is down"] * 2, "once for each time it went"


def test_round_fires_and_tends(engine: sa.Engine, add: Callable[..., Schedule]) -> None:
    add(since=MIDNIGHT, cron="0 0 1 * *")
    tended: list[list[str]] = []
    scheduler_round(engine, parse, silent, tend=lambda engine, notice: tended.append(wanted(engine)))
    assert tended == [["news-20240201t0000z"]]
