"""A driver whose one stage does not listen to anybody, as a job on the cluster: ``stubborn_driver.py FOLDER RUN KIND``.

KIND is where the deaf work happens: `task` (a Ray task), `pool` (actors of a data stage) or `driver` (the driver's own
process). It appends a line to FOLDER/RUN.log when it begins. Once FOLDER/RUN.calm exists the stage ends at once.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray import cloudpickle

from illada.artifacts import Attempt, Progress
from illada.config import DataPlacement, Placement
from illada.durable.cluster import Cluster, run_remote
from illada.durable.database import open_database
from illada.durable.engine import StageRunner, execute
from illada.durable.runs import RunRegistry
from pipelines.pool import Unit, run_units


def labour(log: str) -> dict[str, Any]:
    """Ten minutes of arithmetic, unless it is calm."""
    with Path(log).open("a") as file:
        file.write("begin\n")
    matrix = np.ones((700, 700))
    began = time.monotonic()
    while not Path(log).with_suffix(".calm").exists() and time.monotonic() - began < 600:
        matrix = np.clip(matrix @ matrix, -1, 1)
    return {}


class Labourer:
    """A pool's worker."""

    def __init__(self, log: str) -> None:
        self.log = log

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """One unit."""
        return labour(self.log)


def task(log: str, progress: Progress) -> dict[str, Any]:
    """For `run_remote`."""
    return labour(log)


def main() -> None:
    """Drive the run."""
    folder, run_id, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    log = str(folder / f"{run_id}.log")
    engine = open_database(os.environ["ILLADA_DATABASE"])

    def build(attempt: Attempt, progress: Progress) -> dict[str, Any]:
        if kind == "task":
            return run_remote(task, log, progress=progress)
        if kind == "pool":
            units = [Unit(name=str(number), payload={}) for number in range(2)]
            run_units(units, partial(Labourer, log), attempt.work, DataPlacement(workers=2), progress, "units")
            return {}
        return labour(log)

    def graph(runner: StageRunner) -> dict[str, Any]:
        runner.stage("deaf", 1, {}, {}, build)
        return {}

    run = RunRegistry(engine).create(run_id, "x: 1", {"x": 1}, str(folder / f"store-{run_id}"), sys.argv)
    with Cluster(Placement(ray_address="auto")) as cluster:
        execute(run, engine, graph, prepare=cluster.start)


if __name__ == "__main__":
    main()
