"""Drivers killed, frozen, doubled, cancelled and interrupted: the run ends the same, and nothing is ever done twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from illada.durable.client import RunStatus, cancel, status
from illada.durable.database import open_database
from illada.durable.lease import EXIT_LEASE_LOST
from illada.durable.rebuild import request_rebuild

pytestmark = pytest.mark.faults

DRIVER = Path(__file__).parent / "fault_driver.py"
STAGES = ["a", "b", "c", "d"]


class Line(NamedTuple):
    """One line of the drivers' common log."""

    word: str
    stage: str
    pid: int
    epoch: int
    nanoseconds: int


class Drivers:
    """Starts drivers on one folder and reads what they did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """A driver in its own process group."""
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(self.folder)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, **environment: str) -> tuple[int, str]:
        """A driver from start to end: exit code and what it printed."""
        process = self.start(**environment)
        out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def log(self) -> list[Line]:
        """Everything that was executed so far."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Line(word, stage, *map(int, rest)) for word, stage, *rest in map(str.split, lines)]

    def wait_for(self, word: str, stage: str, count: int = 1) -> None:
        """Until the log holds this line `count` times."""
        deadline = time.monotonic() + 60
        while sum(line.word == word and line.stage == stage for line in self.log()) < count:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def ended(self) -> list[str]:
        """Stages in the order their builds ended."""
        return [line.stage for line in self.log() if line.word == "end"]

    def status(self) -> RunStatus:
        """The run as seen from outside."""
        engine = open_database(f"sqlite:///{self.folder / 'illada.db'}", create=False)
        try:
            return status(engine, "demo")[0]
        finally:
            engine.dispose()

    def freeze(self, driver: subprocess.Popen[str]) -> None:
        """Stop the process outside of a transaction: SQLite has no way to take a lock from a sleeping writer."""
        while True:
            os.kill(driver.pid, signal.SIGSTOP)
            time.sleep(0.1)
            connection = sqlite3.connect(self.folder / "illada.db", timeout=1, isolation_level=None)
            try:
                connection.execute("begin immediate")
                return
            except sqlite3.OperationalError:
                os.kill(driver.pid, signal.SIGCONT)
                time.sleep(0.05)
            finally:
                connection.close()

    def result(self) -> Any:
        """Digest of the last artifact's content, which follows from every file before it."""
        assert self.status().result is not None
        return json.loads(json.dumps(self.status().result))["last"]


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Drivers]:
    """No driver outlives its test."""
    made = Drivers(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the run results in when nothing goes wrong."""
    quiet = Drivers(tmp_path_factory.mktemp("uninterrupted"))
    assert quiet.run()[0] == 0
    return quiet.result()


@pytest.mark.parametrize(
    ("stage", "moment"),
    [("a", "build"), ("c", "build"), ("a", "published"), ("d", "published"), ("b", "next"), ("d", "next")],
)
def test_killed_driver_is_continued(drivers: Drivers, uninterrupted: Any, stage: str, moment: str) -> None:
    code, _ = drivers.run(KILL=f"{stage}:{moment}")
    assert code == -signal.SIGKILL
    assert drivers.status().state in ("running", "stopped"), "running while its lease lasts"
    code, text = drivers.run()
    assert code == 0, text
    assert drivers.ended() == STAGES, "finished stages are not built again"
    begun = [line.stage for line in drivers.log() if line.word == "begin"]
    assert begun == sorted([*STAGES, stage] if moment == "build" else STAGES)
    done = STAGES.index(stage)
    expected = ["replayed"] * done + (["replayed"] if moment == "next" else [])
    expected += ["reused"] if moment == "published" else []
    assert text.strip() == str(expected + ["built"] * (4 - len(expected)))
    assert drivers.result() == uninterrupted
    assert drivers.status().epoch == 2


def test_killed_while_it_builds_again(drivers: Drivers, uninterrupted: Any) -> None:
    assert drivers.run()[0] == 0
    engine = open_database(f"sqlite:///{drivers.folder / 'illada.db'}", create=False)
    assert request_rebuild(engine, "demo", "b") == ["b", "c", "d"]
    engine.dispose()
    assert drivers.run(KILL="b:build")[0] == -signal.SIGKILL
    assert drivers.run(KILL="c:next")[0] == -signal.SIGKILL
    assert drivers.run()[0] == 0
    begun = [line.stage for line in drivers.log() if line.word == "begin"]
    assert begun == [*STAGES, "b", "b", "c", "d"]
    assert drivers.result() == uninterrupted
    assert len(list((drivers.folder / "store").glob("*/*/retired-*.json"))) == 3


def test_killed_again_and_again(drivers: Drivers, uninterrupted: Any) -> None:
    for stage in STAGES:
        assert drivers.run(KILL=f"{stage}:build")[0] == -signal.SIGKILL
    assert drivers.run()[0] == 0
    assert drivers.ended() == STAGES
    assert drivers.result() == uninterrupted
    assert drivers.status().epoch == 5
    assert len(list((drivers.folder / "store").glob("*/*/attempt-*"))) == 4, "abandoned attempts are removed"


def overlaps(log: list[Line]) -> list[tuple[Line, Line]]:
    """Builds of one stage that were in progress at the same time, as (earlier begin, later begin)."""
    found = []
    for stage in STAGES:
        lines = sorted((line for line in log if line.stage == stage), key=lambda line: line.nanoseconds)
        found += [(one, two) for one, two in pairwise(lines) if one.word == two.word == "begin"]
    return found


def test_second_driver_is_refused_while_the_first_lives(drivers: Drivers) -> None:
    first = drivers.start(SECONDS="2", TTL="3")
    drivers.wait_for("begin", "a")
    code, text = drivers.run(TTL="3")
    assert code == 3
    assert f"run demo is driven by process {first.pid} on" in text
    assert first.wait(timeout=60) == 0
    assert {line.pid for line in drivers.log()} == {first.pid}
    assert drivers.ended() == STAGES


def test_many_drivers_at_once_execute_every_step_once(drivers: Drivers, uninterrupted: Any) -> None:
    crowd = [drivers.start(SECONDS="1", TTL="3") for _ in range(4)]
    codes = sorted(process.wait(timeout=120) for process in crowd)
    assert codes[0] == 0
    assert set(codes) <= {0, 3}
    assert drivers.ended() == STAGES
    assert not overlaps(drivers.log())
    assert drivers.result() == uninterrupted


def test_frozen_driver_is_replaced_and_ends_itself_when_it_thaws(drivers: Drivers, uninterrupted: Any) -> None:
    frozen = drivers.start(SECONDS="4", SLOW="b", TTL="2")
    drivers.wait_for("begin", "b")
    drivers.freeze(frozen)
    frozen_at = time.monotonic_ns()
    # The frozen driver still holds the artifact's build lock, which only its end releases.
    second = drivers.start(TTL="2")
    time.sleep(5)
    assert drivers.status().epoch == 2
    os.kill(frozen.pid, signal.SIGCONT)
    assert frozen.wait(timeout=30) == EXIT_LEASE_LOST
    assert frozen.stderr is not None and "lost the lease of run demo (epoch 1)" in frozen.stderr.read()
    assert second.wait(timeout=60) == 0
    assert not [line for line in drivers.log() if line.pid == frozen.pid and line.nanoseconds > frozen_at]
    assert drivers.ended() == STAGES
    assert [line.epoch for line in drivers.log() if line.word == "end"] == [1, 2, 2, 2]
    assert drivers.result() == uninterrupted


def test_cancel_from_another_process_stops_soon_and_resume_finishes(drivers: Drivers, uninterrupted: Any) -> None:
    driver = drivers.start(SECONDS="20")
    drivers.wait_for("begin", "a")
    asked = time.monotonic()
    engine = open_database(f"sqlite:///{drivers.folder / 'illada.db'}", create=False)
    assert cancel(engine, "demo").state == "cancelled"
    assert time.monotonic() - asked < 15
    engine.dispose()
    assert driver.wait(timeout=30) == 4
    assert [stage.state for stage in drivers.status().stages] == ["stopped"]
    assert drivers.run()[0] == 0
    assert drivers.result() == uninterrupted


def test_cancelling_a_dead_run_marks_it_and_resume_finishes(drivers: Drivers, uninterrupted: Any) -> None:
    drivers.run(KILL="b:build", TTL="1")
    engine = open_database(f"sqlite:///{drivers.folder / 'illada.db'}", create=False)
    assert cancel(engine, "demo").state == "cancelled"
    engine.dispose()
    assert [stage.state for stage in drivers.status().stages] == ["done", "stopped"]
    assert drivers.run()[0] == 0
    assert drivers.ended() == STAGES
    assert drivers.result() == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_cleanly(drivers: Drivers, uninterrupted: Any, number: signal.Signals) -> None:
    driver = drivers.start(SECONDS="20")
    drivers.wait_for("begin", "a")
    driver.send_signal(number)
    assert driver.wait(timeout=30) == 4
    run = drivers.status()
    assert (run.state, run.resume, run.driver) == ("interrupted", "illada resume demo", None)
    assert drivers.run()[0] == 0
    assert drivers.result() == uninterrupted


def test_second_signal_ends_at_once(drivers: Drivers, uninterrupted: Any) -> None:
    driver = drivers.start(SECONDS="600")  # a unit takes a minute, so the first signal is not heard before
    drivers.wait_for("begin", "a")
    driver.send_signal(signal.SIGINT)
    time.sleep(1.7)  # within a second it would be the same request, and after three the driver ends by itself
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=10) == 130
    assert drivers.run()[0] == 0
    assert drivers.result() == uninterrupted
