"""A supervisor starts drivers until the run's row says that it is over, and its driver never outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from illada.durable.errors import RunBusy, RunInterrupted
from illada.durable.runs import Run, RunRegistry
from illada.durable.supervise import guard


class Supervisor:
    """A supervisor process whose drivers run `driver`, a piece of Python that knows `update(**columns)`."""

    def __init__(self, engine: sa.Engine, folder: Path, driver: str, longest_pause: float = 10.0) -> None:
        self.log = folder / "log"
        url = engine.url.render_as_string()
        script = folder / "driver.py"
        script.write_text(
            "import os, signal, sys, time\n"
            "from illada.durable.database import open_database\n"
            "from illada.durable.runs import RunRegistry\n"
            "from illada.durable.supervise import end_with_parent\n"
            "end_with_parent(int(sys.argv[-1]))\n"
            f"open({str(self.log)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
            f"number = len(open({str(self.log)!r}).readlines())\n"
            f"def update(**values): RunRegistry(open_database({url!r})).update('demo', **values)\n"
            + textwrap.dedent(driver)
        )
        code = (
            "import sys; from illada.durable import supervise;"
            f"supervise._LONGEST_PAUSE = {longest_pause};"
            f"sys.exit(supervise.supervise({url!r}, 'demo', 'job-1', [sys.executable, {str(script)!r}]))"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    def drivers(self, count: int) -> list[int]:
        """Pids of the drivers so far, once there have been so many."""
        deadline = time.monotonic() + 30
        while not self.log.exists() or len(self.log.read_text().splitlines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return [int(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def run(engine: sa.Engine, new_run: Callable[..., Run]) -> Run:
    """A wanted run."""
    new_run()
    RunRegistry(engine).update("demo", wanted=True, job="job-1", status="running")
    return RunRegistry(engine).get("demo")


def test_killed_driver_is_started_again(engine: sa.Engine, run: Run, tmp_path: Path) -> None:
    driver = """
        if number < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        update(status="finished", wanted=False)
    """
    supervisor = Supervisor(engine, tmp_path, driver)
    out, _ = supervisor.process.communicate(timeout=60)
    assert supervisor.process.returncode == 0
    assert len(supervisor.drivers(3)) == 3
    assert "the driver of run demo ended (signal SIGKILL); the next one starts in 2 s" in out


def test_driver_ends_with_its_supervisor(engine: sa.Engine, run: Run, tmp_path: Path) -> None:
    supervisor = Supervisor(engine, tmp_path, "time.sleep(600)")
    (driver,) = supervisor.drivers(1)
    supervisor.process.kill()
    supervisor.process.wait()
    for _ in range(100):
        if not Path(f"/proc/{driver}").exists():
            return
        time.sleep(0.05)
    os.kill(driver, signal.SIGKILL)
    raise AssertionError("the driver lives on")


def test_signal_is_passed_on_and_the_run_is_wanted_no_more(engine: sa.Engine, run: Run, tmp_path: Path) -> None:
    supervisor = Supervisor(
        engine, tmp_path, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); time.sleep(600)"
    )
    supervisor.drivers(1)
    time.sleep(0.5)
    supervisor.process.terminate()
    assert supervisor.process.wait(timeout=30) == 130
    known = RunRegistry(engine).get("demo")
    assert (known.status, known.wanted) == ("interrupted", False)


def test_signal_does_not_undo_what_the_driver_has_brought_to_an_end(
    engine: sa.Engine, run: Run, tmp_path: Path
) -> None:
    driver = """
        def end(*_):
            update(status="finished", wanted=False)
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        time.sleep(600)
    """
    supervisor = Supervisor(engine, tmp_path, driver)
    supervisor.drivers(1)
    time.sleep(0.5)
    supervisor.process.terminate()
    assert supervisor.process.wait(timeout=30) == 0
    known = RunRegistry(engine).get("demo")
    assert (known.status, known.wanted) == ("finished", False)


@pytest.mark.slow
def test_stage_that_fails_again_and_again_for_want_of_nodes_is_given_up(
    engine: sa.Engine, run: Run, tmp_path: Path
) -> None:
    driver = "update(status='failed', error='no node'); sys.exit(1)"
    supervisor = Supervisor(engine, tmp_path, driver, longest_pause=0.2)
    assert supervisor.process.wait(timeout=200) == 1
    assert len(supervisor.drivers(5)) == 5
    assert not RunRegistry(engine).get("demo").wanted


def test_job_that_was_replaced_ends(engine: sa.Engine, run: Run, tmp_path: Path) -> None:
    supervisor = Supervisor(engine, tmp_path, "update(job='job-2'); sys.exit(3)")
    assert supervisor.process.wait(timeout=60) == 3
    assert RunRegistry(engine).get("demo").wanted


def test_guard(run: Run) -> None:
    from dataclasses import replace

    guard("job-1")(run)
    guard(None)(run)
    with pytest.raises(RunBusy, match="run demo is driven by job job-1, this one is job-0"):
        guard("job-0")(run)
    with pytest.raises(RunInterrupted):
        guard("job-1")(replace(run, wanted=False))
