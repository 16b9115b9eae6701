"""Schedulers killed at any moment, several at once, and the database restarted under them: every slot exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres_server import Server, private_server
from scheduler_process import Nothing
from sqlalchemy.exc import SQLAlchemyError

from illada.durable.cron import slots_after
from illada.durable.database import events, open_database, runs, schedules, slots
from illada.durable.schedules import add_schedule, list_schedules

PROCESS = Path(__file__).parent / "scheduler_process.py"
CRONS = {"every-second": "* * * * * *", "every-other": "* * * * * */2", "every-minute": "* * * * *"}
SECONDS = 25
_started: list[subprocess.Popen[bytes]] = []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A private PostgreSQL."""
    with private_server() as made:
        yield made


@pytest.fixture(autouse=True)
def leave_none_behind() -> Iterator[None]:
    """Also when a test fails."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("crowd", [pytest.param(2, marks=pytest.mark.chaos), pytest.param(4, marks=pytest.mark.faults)])
def test_every_slot_exactly_once(server: Server, tmp_path: Path, crowd: int) -> None:
    engine = _fresh(server)
    began = int(time.time())
    for name, cron in CRONS.items():
        add_schedule(engine, name, cron, "UTC", Nothing(name=name), address="http://127.0.0.1:1", package="0" * 64)
    with engine.begin() as connection:  # nobody has looked for five minutes
        connection.execute(sa.update(schedules).values(cursor=float(began - 300)))

    chance = random.Random(crowd)
    alive = [_start(server, tmp_path) for _ in range(crowd)]
    deaths, restarted = 0, False
    while time.time() < began + SECONDS:
        time.sleep(chance.uniform(0.2, 1.5))
        victim = alive.pop(chance.randrange(len(alive)))
        os.kill(victim.pid, signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL, "none ends by itself"
        deaths += 1
        alive.append(_start(server, tmp_path))
        if not restarted and time.time() > began + SECONDS / 2:
            server.stop()
            time.sleep(3)
            server.start()
            restarted = True
        _check_one_at_a_time(engine)
    for process in alive:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(3)  # nobody looks again
    last = _start(server, tmp_path)
    quiet = time.time()
    while min(schedule.cursor for schedule in list_schedules(engine) if schedule.name != "every-minute") < quiet:
        assert time.time() < quiet + 60
        time.sleep(0.2)
    os.kill(last.pid, signal.SIGTERM)
    assert last.wait(timeout=30) == 0
    assert deaths >= 10 and restarted

    with engine.begin() as connection:
        fired = list(connection.execute(sa.select(slots)))
        known = set(connection.execute(sa.select(runs.c.run_id)).scalars())
        told = Counter(connection.execute(sa.select(events.c.run_id).where(events.c.kind == "scheduled")).scalars())
    for schedule in list_schedules(engine):
        mine = sorted(row.slot for row in fired if row.schedule == schedule.name)
        due = takewhile(lambda slot, end=schedule.cursor: slot <= end, slots_after(schedule.cron, "UTC", began - 300))
        assert mine == list(due)
        assert (
            len(mine)
            >= {"every-second": 300 + SECONDS, "every-other": 150 + SECONDS / 2, "every-minute": 5}[schedule.name]
        )
    assert known == {row.run_id for row in fired} and len(fired) == len(known)
    assert all(row.error is None for row in fired)
    assert max(told.values()) == 1
    lines = Counter(line for line in (tmp_path / "log").read_text().splitlines() if "fired" in line)
    assert max(lines.values()) == 1
    engine.dispose()


def _fresh(server: Server) -> sa.Engine:
    raw = sa.create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with raw.connect() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    raw.dispose()
    return open_database(server.url)


def _start(server: Server, folder: Path) -> subprocess.Popen[bytes]:
    _started.append(subprocess.Popen([sys.executable, str(PROCESS), str(folder), server.url]))
    return _started[-1]


def _check_one_at_a_time(engine: sa.Engine) -> None:
    """No schedule has two runs that may be at work."""
    query = (
        sa.select(slots.c.schedule, sa.func.count())
        .join(runs, runs.c.run_id == slots.c.run_id)
        .where(runs.c.wanted)
        .group_by(slots.c.schedule)
    )
    try:
        with engine.begin() as connection:
            assert all(count == 1 for _, count in connection.execute(query))
    except SQLAlchemyError:
        return  # it has just been restarted
