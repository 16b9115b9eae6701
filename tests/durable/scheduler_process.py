"""A scheduler for fault tests, run as its own process: ``scheduler_process.py FOLDER DATABASE``. SIGTERM ends it.

Runs that may start end by themselves after a while. What it says is appended to FOLDER/log.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
import yaml

from illada.config import RunConfig
from illada.durable import scheduler
from illada.durable.database import DatabaseError, open_database
from illada.durable.runs import RunRegistry


class Nothing(RunConfig):
    """The configuration of runs that do nothing."""

    workflow: Literal["nothing"] = "nothing"


def parse(text: str, where: str = "", **changes: Any) -> RunConfig:
    """What `workflows.registry.parse_workflow` does, for this record."""
    return Nothing.model_validate({**yaml.safe_load(text), **changes})


def tend(engine: sa.Engine, notice: Any) -> None:
    """End some of the runs that may start, as their drivers would."""
    registry = RunRegistry(engine)
    for run in registry.list():
        if run.wanted and random.random() < 0.5:
            registry.update(run.run_id, status="finished", wanted=False)


def main() -> None:
    """Serve until SIGTERM."""
    folder, database = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    scheduler._EVERY_SECONDS = 0.2

    def log(line: str) -> None:
        with Path(folder, "log").open("a") as file:
            file.write(f"{line}\n")

    scheduler.serve(_open(database), parse, stop, log, tend=tend)


def _open(database: str) -> sa.Engine:
    """Once it is there: what would start a service again and again does the same."""
    while True:
        try:
            return open_database(database)
        except DatabaseError:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
