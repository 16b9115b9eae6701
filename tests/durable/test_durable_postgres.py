"""The same on PostgreSQL: a private server is started for these tests where the distribution has one installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres_server import Server, private_server

from illada.artifacts import Progress
from illada.durable.client import cancel, status
from illada.durable.database import SCHEMA_VERSION, DatabaseError, open_database, schema
from illada.durable.engine import StageFailed, execute
from illada.durable.lease import Lease, RunBusy
from illada.durable.runs import RunConflict, RunRegistry

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parent / "fault_driver.py"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests of this file."""
    with private_server() as made:
        yield made


@pytest.fixture
def engine(server: Server) -> Iterator[sa.Engine]:
    """An empty run database on the server."""
    raw = sa.create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with raw.connect() as connection:
        connection.exec_driver_sql(
            "DROP SCHEMA IF EXISTS dbos CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        )
    raw.dispose()
    opened = open_database(server.url)
    yield opened
    opened.dispose()


def test_schema(server: Server, engine: sa.Engine) -> None:
    open_database(server.url, create=False).dispose()
    with engine.begin() as connection:
        connection.execute(sa.update(schema).values(version=SCHEMA_VERSION + 1))
    with pytest.raises(DatabaseError, match="written by a newer illada"):
        open_database(server.url)
    with pytest.raises(DatabaseError, match='database "missing" does not exist'):
        open_database(server.url.removesuffix("/postgres") + "/missing")


def test_registry_and_lease(engine: sa.Engine, new_run: Callable) -> None:
    new_run()
    with pytest.raises(RunConflict, match="x: 1 -> 2"):
        new_run("demo", {"x": 2})
    with Lease(engine, "demo", ttl=1.5) as lease:
        assert status(engine)[0].driver is not None
        with pytest.raises(RunBusy), Lease(engine, "demo", ttl=1.5):
            pass
        lease.check()
    with Lease(engine, "demo") as lease:
        assert lease.epoch == 2


def test_fail_resume_and_repeat(engine: sa.Engine, new_run: Callable, chain) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("the corpus is empty")

    chain.on_build["b"] = fail
    with pytest.raises(StageFailed):
        execute(new_run(), engine, chain)
    chain.on_build.clear()
    execute(new_run(), engine, chain)
    assert chain.how == {"a": "replayed", "b": "built", "c": "built"}
    execute(new_run(), engine, chain)
    assert set(chain.how.values()) == {"reused"}
    (run,) = status(engine)
    assert (run.state, run.generation) == ("finished", 2)


def start(server: Server, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A driver process on this server."""
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(folder)],
        env={**os.environ, "DATABASE": server.url, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, text: str) -> None:
    """Until the file holds the text."""
    for _ in range(600):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{text} never came")


def test_kill_cancel_resume(server: Server, engine: sa.Engine, tmp_path: Path) -> None:
    assert start(server, tmp_path, KILL="b:build").wait(timeout=60) == -signal.SIGKILL
    driver = start(server, tmp_path, SECONDS="20")
    wait_for(tmp_path / "log", "begin c")
    assert cancel(engine, "demo").state == "cancelled"
    assert driver.wait(timeout=30) == 4
    assert start(server, tmp_path).wait(timeout=60) == 0
    (run,) = status(engine)
    assert (run.state, run.epoch) == ("finished", 3)
    assert RunRegistry(engine).get("demo").result is not None


def test_short_outage_in_the_middle_of_a_stage_is_ridden_out(server: Server, engine: sa.Engine, tmp_path: Path) -> None:
    driver = start(server, tmp_path, SECONDS="6", SLOW="b")
    wait_for(tmp_path / "log", "begin b")
    server.stop()
    time.sleep(3)
    server.start()
    assert driver.wait(timeout=90) == 0
    assert status(engine)[0].state == "finished"
    assert status(engine)[0].epoch == 1
