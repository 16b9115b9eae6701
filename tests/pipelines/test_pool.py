"""The pool: order, resume, lost actors, errors with their cause."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from illada.artifacts import Folder, NoProgress, StageInterrupted
from illada.config import DataPlacement
from pipelines.pool import ActorPool, PoolError, Unit, run_units

ONE, TWO = DataPlacement(workers=1, cpus_per_worker=0.5), DataPlacement(workers=2, cpus_per_worker=0.5)


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
pytestmark = pytest.mark.usefixtures("cluster")


class Recorder:
    """Writes its unit's number, and a line to a log outside the work folder; dies or raises where told."""

    def __init__(self) -> None:
        self.count = 0

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        log = Path(unit.payload["log"])
        with log.open("a") as file:
            file.write(unit.name + "\n")
        with log.with_suffix(".pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if unit.payload.get("raises"):
            raise {"value": ValueError, "key": KeyError}[unit.payload["raises"]]("no good")
        deaths = unit.payload.get("deaths", 0)
        if log.read_text().split().count(unit.name) <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        (output / "part").mkdir()
        (output / "part" / "number.txt").write_text(str(unit.payload["number"]))
        return {"number": unit.payload["number"]}


def units(folder: Path, count: int = 6, **special: Any) -> list[Unit]:
    log = str(folder / "log")
    return [
        Unit(name=f"u{i}", payload={"number": i, "log": log, **special.get(f"u{i}", {})}, weight=i % 3 + 1)
        for i in range(count)
    ]


def wait_for_the_end_of_workers(folder: Path) -> None:
    """A killed actor may start on the unit that waited for it before it is gone."""
    for pid in set((folder / "log.pids").read_text().split()):
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)


class StopAfter(NoProgress):
    def __init__(self, done: float) -> None:
        self.limit = done

    def update(self, done: float, **figures: float | str) -> None:
        if done >= self.limit:
            raise StageInterrupted


def test_results_in_order_of_units(tmp_path: Path) -> None:
    work = Folder.at(tmp_path / "work")
    results = run_units(units(tmp_path), Recorder, work, TWO, NoProgress(), "things")
    assert [result.statistics["number"] for result in results] == list(range(6))
    assert [result.path("part/number.txt").read_text() for result in results] == [str(i) for i in range(6)]


def test_finished_units_are_not_run_again(tmp_path: Path) -> None:
    work = Folder.at(tmp_path / "work")
    with pytest.raises(StageInterrupted):
        run_units(units(tmp_path), Recorder, work, ONE, StopAfter(4), "things")
    wait_for_the_end_of_workers(tmp_path)
    before = (tmp_path / "log").read_text().split()
    marked = {name.removesuffix(".json") for name in work.names("u") if name.endswith(".json")}
    assert marked and len(marked) < 6
    run_units(units(tmp_path), Recorder, work, ONE, NoProgress(), "things")
    again = (tmp_path / "log").read_text().split()[len(before) :]
    assert sorted(again) == sorted({f"u{i}" for i in range(6)} - marked)


def test_damaged_or_foreign_results_are_redone(tmp_path: Path) -> None:
    work = Folder.at(tmp_path / "work")
    first = run_units(units(tmp_path, 2), Recorder, work, ONE, NoProgress(), "things")
    first[0].folder.write("part/number.txt", b"7")
    changed = units(tmp_path, 2, u1={"number": 9})
    second = run_units(changed, Recorder, work, ONE, NoProgress(), "things")
    assert [result.path("part/number.txt").read_text() for result in second] == ["0", "9"]


def test_a_lost_actor_is_replaced_and_its_unit_done_by_another(tmp_path: Path) -> None:
    results = run_units(
        units(tmp_path, u2={"deaths": 1}), Recorder, Folder.at(tmp_path / "work"), TWO, NoProgress(), "things"
    )
    assert [result.statistics["number"] for result in results] == list(range(6))
    assert (tmp_path / "log").read_text().split().count("u2") == 2


def test_a_unit_that_waits_behind_a_deadly_one_is_not_blamed(tmp_path: Path) -> None:
    some = units(tmp_path, 8, u2={"deaths": 2})
    with ActorPool(Recorder, ONE) as pool:
        results = pool.run(some, Folder.at(tmp_path / "work"), NoProgress(), "things")
        assert pool._losses == {"u2": 2}
    assert [result.statistics["number"] for result in results] == list(range(8))
    assert sorted((tmp_path / "log").read_text().split()) == sorted([*(f"u{n}" for n in range(8)), "u2", "u2"])


def test_a_unit_that_kills_its_actors_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"u1: its worker process died 3 times"):
        run_units(
            units(tmp_path, 2, u1={"deaths": 99}), Recorder, Folder.at(tmp_path / "work"), ONE, NoProgress(), "things"
        )


def test_errors_reach_the_caller_as_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no good") as caught:
        run_units(
            units(tmp_path, 2, u1={"raises": "value"}), Recorder, Folder.at(tmp_path / "a"), ONE, NoProgress(), "things"
        )
    assert caught.value.__notes__ == ["in unit u1"]
    with pytest.raises(PoolError, match=r"in unit u1: KeyError: 'no good'"):
        run_units(
            units(tmp_path, 2, u1={"raises": "key"}), Recorder, Folder.at(tmp_path / "b"), ONE, NoProgress(), "things"
        )


class Unbuildable:
    def __init__(self) -> None:
        raise ValueError("model file is not there")


def test_a_worker_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model file is not there"):
        run_units(units(tmp_path, 2), Unbuildable, Folder.at(tmp_path / "work"), ONE, NoProgress(), "things")  # type: ignore[arg-type]
