"""One of several drivers that want the same run, as a job on the cluster: ``contending_driver.py FOLDER RUN``.

Its graph is four stages, each a Ray task that appends a line ``<stage> <epoch> <monotonic ns>`` to FOLDER/RUN.log every
20 ms for as long as it lives: whatever works on a stage, for whichever driver, is seen there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from ray import cloudpickle

from illada.artifacts import Attempt, Progress
from illada.config import Placement
from illada.durable.cluster import Cluster, run_remote
from illada.durable.database import open_database
from illada.durable.engine import RunBusy, StageRunner, execute
from illada.durable.runs import RunRegistry

STAGES = ("a", "b", "c", "d")
SECONDS = 1.5


def work(log: str, stage: str, epoch: int, progress: Progress) -> dict[str, Any]:
    """Is alive for a while."""
    progress.start(SECONDS, "seconds")
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        with Path(log).open("a") as file:
            file.write(f"{stage} {epoch} {time.monotonic_ns()}\n")
        progress.update(time.monotonic() - began)
        time.sleep(0.02)
    return {}


def main() -> None:
    """Drive, or wait for the one that does, until the run is finished."""
    folder, run_id = Path(sys.argv[1]), sys.argv[2]
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    engine = open_database(os.environ["ILLADA_DATABASE"])
    registry = RunRegistry(engine)

    def graph(runner: StageRunner) -> dict[str, Any]:
        for stage in STAGES:

            def build(attempt: Attempt, progress: Progress, stage: str = stage) -> dict[str, Any]:
                return run_remote(work, str(folder / f"{run_id}.log"), stage, attempt.epoch, progress=progress)

            runner.stage(stage, 1, {}, {}, build)
        return {}

    run = registry.create(run_id, "x: 1", {"x": 1}, str(folder / f"store-{run_id}"), sys.argv)
    with Cluster(Placement(ray_address="auto")) as cluster:
        while registry.get(run_id).status != "finished":
            try:
                execute(run, engine, graph, prepare=cluster.start, ttl=4, wait=60)
            except RunBusy as error:
                print(error, flush=True)
                time.sleep(0.2)


if __name__ == "__main__":
    main()
