"""A driver for fault tests, run as its own process: ``fault_driver.py FOLDER``. Its surroundings tell it how to die.

Every begin and end of a build is appended to FOLDER/log as ``<word> <stage> <pid> <epoch> <monotonic ns>``, which is
how the tests see what was executed, when, and by whom. KILL=<stage>:<moment> ends the process with SIGKILL at one
moment: `build` half way through the build, `published` between publication and DBOS's record of the step, `next` after
that. A build takes SECONDS; only that of stage SLOW, if there is one, the others a moment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress, Store
from illada.durable.database import open_database
from illada.durable.engine import RunBusy, RunInterrupted, StageRunner, execute
from illada.durable.runs import RunRegistry

FOLDER = Path(sys.argv[1])
KILL = os.environ.get("KILL", "")
SECONDS, SLOW = float(os.environ.get("SECONDS", "0.2")), os.environ.get("SLOW", "")
TTL = float(os.environ.get("TTL", "15"))
STAGES = ("a", "b", "c", "d")


def log(word: str, stage: str, epoch: int) -> None:
    """One atomic line."""
    with (FOLDER / "log").open("a") as file:
        file.write(f"{word} {stage} {os.getpid()} {epoch} {time.monotonic_ns()}\n")


def die_if(moment: str) -> None:
    """SIGKILL, if this is the moment."""
    if moment == KILL:
        os.kill(os.getpid(), signal.SIGKILL)


def build(attempt: Attempt, progress: Progress) -> dict[str, Any]:
    """Counts to 10 in `work`, going on from where an earlier attempt was."""
    stage = attempt.identity.stage
    log("begin", stage, attempt.epoch)
    seconds = SECONDS if SLOW in ("", stage) else 0.2
    progress.start(10, "units")
    for unit in range(10):
        if not attempt.work.exists(f"{unit}"):
            time.sleep(seconds / 10)
            attempt.work.write(f"{unit}", f"{stage} {unit}".encode())
        progress.update(unit + 1)
        if unit == 5:
            die_if(f"{stage}:build")
    for unit in range(10):
        attempt.adopt(attempt.work, f"{unit}", f"units/{unit}")
    log("end", stage, attempt.epoch)
    return {"units": 10}


def graph(runner: StageRunner) -> dict[str, Any]:
    """A chain of four stages."""
    previous: Artifact | None = None
    for stage in STAGES:
        inputs = {} if previous is None else {"previous": previous.content}
        previous = runner.stage(stage, 1, {}, inputs, build)
        die_if(f"{stage}:next")
    assert previous is not None
    return {"last": previous.content, "how": [outcome.how for outcome in runner.stages]}


class DyingStore(Store):
    """Dies between publication and the record of the step."""

    def publish(self, attempt: Attempt, *arguments: Any) -> Artifact:
        artifact = super().publish(attempt, *arguments)
        die_if(f"{attempt.identity.stage}:published")
        return artifact


def main() -> int:
    """0 finished, 3 refused, 4 interrupted."""
    import illada.durable.lease
    import illada.durable.stages

    illada.durable.stages.Store = DyingStore
    illada.durable.lease._SETTLE_SECONDS = 0.5  # there are no Ray workers here that outlive their driver
    engine = open_database(os.environ.get("DATABASE") or f"sqlite:///{FOLDER / 'illada.db'}")
    run = RunRegistry(engine).create("demo", "x: 1", {"x": 1}, str(FOLDER / "store"), sys.argv)
    try:
        print(execute(run, engine, graph, ttl=TTL)["how"])
    except RunBusy as error:
        print(error, file=sys.stderr)
        return 3
    except RunInterrupted as error:
        print(error, file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
