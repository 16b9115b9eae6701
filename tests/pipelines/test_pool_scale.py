"""A stage of 100,000 units, killed with SIGKILL and resumed: what remains is found fast, and nothing is done twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pool_driver import statistics, units

from illada.artifacts import Folder
from illada.durable.client import status
from illada.durable.database import open_database
from pipelines.ledger import Ledger, mark

ROOT = Path(__file__).resolve().parents[2]
COUNT, PREPARED, KILLED_AFTER = 100_000, 97_000, 1_000


def prepare(folder: Path, first: int, last: int) -> None:
    """Finish units as a worker does, without waiting for the disk."""
    os.fsync = lambda _: None
    work = Folder.at(folder / "work")
    for unit in units(folder, last)[first:]:
        name = f"{unit.name}.{os.urandom(6).hex()}"
        output = folder / "work" / name
        output.mkdir(parents=True)
        (output / "number").write_text(str(unit.payload["number"]))
        mark(unit, work, output, work / name, statistics(unit.payload["number"]))


def driver(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, str(Path(__file__).with_name("pool_driver.py")), str(folder), str(COUNT)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def log(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_the_end_of_workers(folder: Path) -> None:
    for pid in {line.split()[1] for line in log(folder)}:
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_100_000_units_killed_and_resumed(tmp_path: Path) -> None:
    middle = PREPARED // 2
    spawn = multiprocessing.get_context("spawn")
    halves = [spawn.Process(target=prepare, args=(tmp_path, *ends)) for ends in ((0, middle), (middle, PREPARED))]
    for half in halves:
        half.start()
    for half in halves:
        half.join()
    assert len(Ledger(units(tmp_path, COUNT), Folder.at(tmp_path / "work"))) == PREPARED  # writes their segments

    killed = driver(tmp_path)
    while len(log(tmp_path)) < KILLED_AFTER:
        assert killed.poll() is None, "it was to be killed"
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_for_the_end_of_workers(tmp_path)
    finished = {path.stem for path in (tmp_path / "work").glob("u*.json")}
    assert PREPARED + KILLED_AFTER // 2 < len(finished) < COUNT
    before = len(log(tmp_path))

    resumed = driver(tmp_path)
    asked = watch(tmp_path, resumed)
    report: dict[str, Any] = json.loads(resumed.communicate()[0])
    again = [line.split()[0] for line in log(tmp_path)[before:]]
    everything = {unit.name for unit in units(tmp_path, COUNT)}
    assert report["unfinished"] == sorted(everything - finished)
    assert sorted(again) == sorted(everything - finished), "each of these once, no other"
    assert report["numbers_in_order"]
    assert report["sum"] == sum(number * 1000 + 15 for number in range(COUNT))
    assert report["opened_outputs"] == 0
    assert report["opened"] < 1_200, "a hundred segments, and the markers since the last one"
    assert report["megabytes"] < 300
    assert report["seconds"] < 10
    assert len(asked) > 5
    assert max(asked) < 1


def watch(folder: Path, running: subprocess.Popen[str]) -> list[float]:
    """How long each look at the run's status takes while its driver is at work."""
    engine = open_database(f"sqlite:///{folder}/illada.db")
    taken = []
    while running.poll() is None:
        started = time.monotonic()
        (run,) = status(engine, "many")
        taken.append(time.monotonic() - started)
        assert len(run.stages) == 1, "however many units it has"
        time.sleep(0.1)
    engine.dispose()
    return taken
