"""A driver of one stage of many units, for tests and benchmarks that kill it: ``python pool_driver.py FOLDER COUNT``.

Works in FOLDER/work, tells the run database FOLDER/illada.db of its progress as a stage of run "many", appends every
unit's name and process to FOLDER/log, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illada.artifacts import Folder
from illada.config import DataPlacement
from illada.durable.database import open_database
from illada.durable.progress import StageProgress
from illada.durable.runs import RunRegistry
from pipelines.ledger import Ledger
from pipelines.pool import Unit, run_units


class Small:
    """Writes its unit's number; what it returns is as much as the funnel of a file would be."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        with Path(unit.payload["log"]).open("a") as file:
            file.write(f"{unit.name} {os.getpid()}\n")
        (output / "number").write_text(str(unit.payload["number"]))
        return statistics(unit.payload["number"])


def statistics(number: int) -> dict[str, Any]:
    """Of unit `number`, about a kilobyte."""
    steps = [{"step": f"step {step}", "documents": number, "bytes": number * 1000 + step} for step in range(16)]
    return {"number": number, "funnel": steps}


def units(folder: Path, count: int) -> list[Unit]:
    """Units with payloads as large as those of files of a crawl."""
    log = str(folder / "log")
    path = "/data/crawl/segments/1234567890123.45/warc/CC-MAIN-20240101000000-20240101000000-"
    return [
        Unit(name=f"u{n:06d}", payload={"number": n, "log": log, "path": f"{path}{n:06d}.warc.gz"})
        for n in range(count)
    ]


def memory(name: str) -> float:
    """A figure of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def look(some: Sequence[Unit], work: Folder) -> dict[str, Any]:
    """Time of a look at what remains, the units that do, and which files it opened."""
    opened: list[str] = []
    watching = True
    sys.addaudithook(lambda event, what: opened.append(str(what[0])) if watching and event == "open" else None)
    started = time.monotonic()
    ledger = Ledger(some, work)
    seconds = time.monotonic() - started
    watching = False
    names = [unit.name for unit in ledger.unfinished]
    inside = sum(Path(path).parent.parent == work.path for path in opened)
    return {"seconds": seconds, "unfinished": names, "opened": len(opened), "opened_outputs": inside}


def main(folder: Path, count: int) -> None:
    """Look at what remains, then do it."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    engine = open_database(f"sqlite:///{folder}/illada.db")
    if "many" not in [run.run_id for run in RunRegistry(engine).list()]:
        RunRegistry(engine).create("many", "", {"units": count}, str(folder), [])
    progress = StageProgress(engine, "many", "curate", 0, lambda: False, None)
    progress.begin("0" * 64)
    before = memory("VmRSS")
    some, work = units(folder, count), Folder.at(folder / "work")
    report = look(some, work)
    started = time.monotonic()
    results = run_units(some, Small, work, DataPlacement(workers=2), progress, "units")
    report["run_seconds"] = time.monotonic() - started
    report["numbers_in_order"] = all(result.statistics["number"] == n for n, result in enumerate(results))
    report["sum"] = sum(result.statistics["funnel"][15]["bytes"] for result in results)
    report["megabytes"] = memory("VmHWM") - before
    progress.end("done")
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
