"""`illada cancel` ends all work of a run on the cluster within 5 s, in every kind of stage; the run goes on later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench, alive

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

PROMISE_SECONDS = 5.0


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def cancel(cluster: Bench, run: str) -> float:
    """Seconds from the command's start to the end of the last task, actor and rank; the driver follows at once."""
    driver = cluster.driver(run)
    assert alive(driver)
    began = time.monotonic()
    with cluster.started("cancel", run) as command:
        wait_for(lambda: not cluster.nodes.work(), "work goes on", 30)
        work = time.monotonic() - began
        wait_for(lambda: not alive(driver), "the driver goes on", 30)
        seconds = time.monotonic() - began
        assert command.wait(timeout=30) == 0
        wait_for(lambda: not cluster.drivers(run), "the job goes on", 30)
    ((state, wanted),) = cluster.query("select status, wanted from illada_runs where run_id = %s", run)
    assert (state, wanted) == ("cancelled", False)
    print(f"{run}: work {work:.2f} s, driver {seconds:.2f} s")
    assert seconds < 2 * PROMISE_SECONDS
    return work


@pytest.mark.parametrize("kind", ["task", "pool", "driver"])
def test_work_that_does_not_listen(cluster: Bench, kind: str) -> None:
    run = f"deaf-{kind}"
    log = cluster.folder / f"{run}.log"
    begun = 2 if kind == "pool" else 1
    cluster.job("stubborn_driver.py", run, kind)
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= begun, "the work begins")
    time.sleep(1)
    assert cancel(cluster, run) < PROMISE_SECONDS
    log.with_suffix(".calm").touch()
    cluster.job("stubborn_driver.py", run, kind)
    wait_for(lambda: cluster.state(run) == "finished", "the run is resumed")


def test_training_ranks(cluster: Bench, uninterrupted: Path) -> None:
    run = "long"
    cluster.seed(run, uninterrupted)
    done = cluster.illada(*cluster.arguments(run), "--set", "pretrain.steps=60")
    assert done.returncode == 0, done.stderr

    def ranks() -> int:
        return sum("TrainWorker" in command for command in cluster.nodes.work().values())

    def steps() -> float:
        rows = cluster.query("select done from illada_stages where run_id = %s and stage = 'pretrain'", run)
        return rows[0][0] or 0 if rows else 0

    wait_for(ranks, "ranks start")
    assert cancel(cluster, run) < PROMISE_SECONDS, "ranks that only start"
    assert steps() == 0

    assert cluster.illada("resume", run).returncode == 0
    wait_for(lambda: steps() >= 10, "ranks train")
    assert cancel(cluster, run) < PROMISE_SECONDS, "ranks in the middle of their steps"

    assert cluster.illada("resume", run).returncode == 0
    sql = "select 1 from illada_stages where run_id = %s and stage = 'pretrain' and state = 'done'"
    wait_for(lambda: cluster.query(sql, run), "training goes on to its end")
    cluster.illada("cancel", run)
