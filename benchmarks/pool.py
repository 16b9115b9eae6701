"""The actor pool at scale: what it adds to the work of 1,000 units, and the resume of a stage of 100,000.

python benchmarks/pool.py [--units 100000] [--milliseconds 100] [--rounds 3]

The same units run on bare Ray (actors of the same number, `ray.util.ActorPool`) and through the pool, which also writes
each unit's marker durably. Each unit computes for that many milliseconds of processor time; what driver, actors and
Ray's own processes use beyond that is the overhead, which other load on the machine does not change much. Then a stage
is prepared with all but 100 of its units finished, and one attempt after another looks for what remains. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from illada.artifacts import Folder, NoProgress
from illada.config import DataPlacement
from pipelines.ledger import Ledger, Results, mark
from pipelines.pool import ActorPool, Unit

WORKERS = 2
SMALL = 1000
LEFT = 100


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000, help="of the stage that is resumed")
    parser.add_argument("--milliseconds", type=float, default=100.0, help="work of each of the 1,000 units")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "small_units": _small(Path(folder), options.milliseconds, options.rounds),
            "resume": _resume(Path(folder) / "large", options.units, options.rounds),
        }
    machine = {
        "processors": os.cpu_count(),
        "load_before_and_after": [load, os.getloadavg()[0]],
        "python": platform.python_version(),
        "ray": metadata.version("ray"),
    }
    print(json.dumps({"machine": machine, **figures}, indent=1))


class Worker:
    """Computes for a while and writes a small file."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """See `pipelines.pool.Worker`."""
        started = time.process_time()
        while time.process_time() - started < unit.payload["seconds"]:
            sum(range(1000))
        (output / "number").write_text(str(unit.payload["number"]))
        return {"number": unit.payload["number"], "process": os.getpid(), "work": time.process_time() - started}


class Bare:
    """The same on bare Ray."""

    def __init__(self) -> None:
        self.worker = Worker()

    def run(self, unit: Unit, work: Path) -> dict[str, Any]:
        """Into a folder of the unit's, as the pool gives it one."""
        output = work / unit.name
        output.mkdir(parents=True)
        return self.worker.run(unit, output)


def _small(folder: Path, milliseconds: float, rounds: int) -> dict[str, Any]:
    """What 1,000 units cost beyond their own work."""
    import ray
    from ray.util import ActorPool as RayPool

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    units = [Unit(name=f"u{n:04d}", payload={"number": n, "seconds": milliseconds / 1e3}) for n in range(SMALL)]
    warm = [Unit(name=f"w{n}", payload={"number": n, "seconds": 0.5}) for n in range(WORKERS)]
    taken: dict[str, list[dict[str, float]]] = {"bare_ray": [], "pool": []}
    for number in range(rounds):
        actors = [ray.remote(Bare).options(num_cpus=1).remote() for _ in range(WORKERS)]
        bare = RayPool(actors)
        list(bare.map(partial(_run_bare, folder / f"bare-warm-{number}"), warm))
        with _Bill() as bill:
            rows = list(bare.map(partial(_run_bare, folder / f"bare-{number}"), units))
        taken["bare_ray"].append(bill.overhead(rows))
        for actor in actors:
            ray.kill(actor)
        with ActorPool(Worker, DataPlacement(workers=WORKERS)) as pool:
            pool.run(warm, Folder.at(folder / f"warm-{number}"), NoProgress(), "units")
            with _Bill() as bill:
                results = pool.run(units, Folder.at(folder / f"pool-{number}"), NoProgress(), "units")
            taken["pool"].append(bill.overhead([result.statistics for result in results]))
    ray.shutdown()
    return {"units": SMALL, "workers": WORKERS, "milliseconds": milliseconds, "rounds": taken}


class _Bill:
    """Processor seconds of this process and its children, Ray's and the actors, while the block lasts."""

    def __enter__(self) -> Self:
        self._before, self._started = _processor_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._started
        after = _processor_seconds()
        self._used = {process: seconds - self._before.get(process, 0.0) for process, seconds in after.items()}

    def overhead(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """In per cent of the units' work, by where it was spent; `wall` beyond the work spread over the actors."""
        work = sum(row["work"] for row in rows)
        driver = self._used[os.getpid()]
        actors = sum(self._used[process] for process in {row["process"] for row in rows}) - work
        rest = sum(self._used.values()) - driver - actors - work
        parts = {"driver": driver, "actors": actors, "driver_and_actors": driver + actors, "rest_of_ray": rest}
        percent = {name: round(100 * seconds / work, 2) for name, seconds in parts.items()}
        return {**percent, "wall": round(100 * (self.wall * WORKERS / work - 1), 2), "work_seconds": round(work, 2)}


def _processor_seconds() -> dict[int, float]:
    import psutil

    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _run_bare(work: Path, actor: Any, unit: Unit) -> Any:
    return actor.run.remote(unit, work)


def _resume(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds until the remaining units are known, and the memory that this takes."""
    units = _units(count)
    parts = [(folder, part, count - LEFT, WORKERS) for part in range(WORKERS)]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(_finish, parts)
    marked = time.perf_counter()
    work = Folder.at(folder)
    Ledger(units, work)  # which writes the segments that a driver would have written by and by
    first = time.perf_counter()
    seconds = []
    for _ in range(rounds):
        before = time.perf_counter()
        ledger = Ledger(units, work)
        seconds.append(round(time.perf_counter() - before, 2))
        assert len(ledger.unfinished) == LEFT
    before = time.perf_counter()
    read = sum(ledger.result(position).statistics["number"] for position in range(count - LEFT))
    assert read == sum(range(count - LEFT))
    reading = time.perf_counter() - before
    tracemalloc.start()
    ledger = Ledger(units, work)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(Results(ledger)) == count - LEFT
    return {
        "units": count,
        "finished": count - LEFT,
        "seconds_of_each_look": seconds,
        "seconds_from_markers_alone": round(first - marked, 2),
        "seconds_to_read_all_statistics": round(reading, 2),
        "megabytes_held": round(held / 1e6, 1),
        "megabytes_peak": round(peak / 1e6, 1),
        "preparation_seconds": round(marked - started, 1),
    }


def _units(count: int) -> list[Unit]:
    path = "/data/crawl/segments/1234567890123.45/warc/CC-MAIN-20240101000000-20240101000000-"
    return [Unit(name=f"u{n:06d}", payload={"number": n, "path": f"{path}{n:06d}.warc.gz"}) for n in range(count)]


def _finish(folder: Path, part: int, count: int, parts: int) -> None:
    """Every `parts`th unit, as a worker finishes it, without waiting for the disk."""
    os.fsync = lambda _: None  # type: ignore[assignment]
    work = Folder.at(folder)
    for unit in _units(count)[part::parts]:
        name = f"{unit.name}.{os.urandom(6).hex()}"
        output = folder / name
        output.mkdir(parents=True)
        (output / "number").write_text(str(unit.payload["number"]))
        funnel = [{"step": f"step {step}", "documents": 1000, "bytes": 10**6 + step} for step in range(16)]
        mark(unit, work, output, work / name, {"number": unit.payload["number"], "funnel": funnel})


if __name__ == "__main__":
    main()
