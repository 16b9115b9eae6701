"""The entrypoint of a job: keeps one driver of a run alive inside it.

The driver is a child process that never outlives this one. A driver that was killed, lost its lease, its cluster or its
database is started again; one that is done has said so in the run's row, which alone decides: this process ends when
the run is no longer wanted, or when another job has been started for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from illada.durable.database import DatabaseError, open_database, runs
from illada.durable.errors import RunBusy, RunInterrupted
from illada.durable.runs import Run, RunRegistry

_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
_LONG_LIFE_SECONDS = 120.0
_MOST_FAILURES = 5  # of a stage in a row, each of them after several attempts that lost a worker or a node
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

EXIT_NOT_OURS = 72


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, which is the process `parent`, is gone. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_NOT_OURS)


def guard(job: str | None) -> Callable[[Run], None]:
    """For `execute`: raises unless the run is still wanted, and this job (if it is one) is the one to drive it."""

    def check(run: Run) -> None:
        if not run.wanted:
            raise RunInterrupted(run.run_id, cancelled=run.status == "cancelled")
        if job is not None and run.job != job:
            raise RunBusy(f"run {run.run_id} is driven by job {run.job}, this one is {job}")

    return check


def supervise(database: str, run_id: str, job: str | None, command: list[str]) -> int:
    """Start `command` again and again until the run is not to be driven here any more; the last driver's exit code."""
    stopping = _Signals(lambda: _give_up(database, run_id))
    pause = _SHORTEST_PAUSE
    failures = 0
    while True:
        began = time.monotonic()
        code = stopping.run(command)
        long_lived = time.monotonic() - began > _LONG_LIFE_SECONDS
        run = _read(database, run_id, stopping.asked)
        if run is None:
            return code
        failures = failures + 1 if run.status == "failed" and not long_lived else 0
        if failures >= _MOST_FAILURES:
            _write(database, run_id, wanted=False)
            return code
        if stopping.asked.is_set() or not run.wanted or (job is not None and run.job != job):
            return code
        pause = _SHORTEST_PAUSE if long_lived else min(_LONGEST_PAUSE, 2 * pause)
        print(
            f"illada: the driver of run {run_id} ended ({_cause(code)}); the next one starts in {pause:.0f} s",
            flush=True,
        )
        stopping.asked.wait(pause)


class _Signals:
    """Runs a child and passes SIGTERM and SIGINT on to it; after one, `asked` is set and no child is started.

    `on_ask` is called at once: whoever stops a job may not wait for long.
    """

    def __init__(self, on_ask: Callable[[], None]) -> None:
        self.asked = threading.Event()
        self._on_ask = on_ask
        self._child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    def run(self, command: list[str]) -> int:
        """The exit code of `command`, run to its end."""
        if self.asked.is_set():
            return 128 + signal.SIGTERM
        self._child = subprocess.Popen([*command, "--parent", str(os.getpid())])
        if self.asked.is_set():
            self._child.terminate()
        told, code = False, None
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._child.wait(timeout=0.1)
            if self.asked.is_set() and not told:  # also of a child that has ended on the signal already
                self._on_ask()
                told = True
        return code

    def _pass_on(self, number: int, _: Any) -> None:
        self.asked.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _read(database: str, run_id: str, stop: threading.Event) -> Run | None:
    """The run's row, waiting for the database; None when asked to stop meanwhile."""
    while True:
        try:
            engine = open_database(database, create=False)
            try:
                return RunRegistry(engine).get(run_id)
            finally:
                engine.dispose()
        except (DatabaseError, SQLAlchemyError) as error:
            print(f"illada: {' '.join(str(error).split())}; waiting for the database", flush=True)
            if stop.wait(2 * _SHORTEST_PAUSE):
                return None


def _give_up(database: str, run_id: str) -> None:
    """`ray job stop`, or the end of whatever this job lives in: the run is left for people to resume."""
    with contextlib.suppress(DatabaseError, SQLAlchemyError):
        _write(database, run_id, wanted=False, status="interrupted")  # no effect on one that is over


def _write(database: str, run_id: str, **values: Any) -> None:
    """Set columns of a run that is still wanted: one that its driver has brought to an end is left as it is."""
    engine = open_database(database, create=False)
    try:
        with engine.begin() as connection:
            wanted = sa.update(runs).where(runs.c.run_id == run_id, runs.c.wanted)
            connection.execute(wanted.values(updated=time.time(), **values))
    finally:
        engine.dispose()


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
