"""Several jobs drive one run at once, and die: no two ever work on a stage together, and epochs never go back."""

from __future__ import annotations

import time
from collections import defaultdict

import pytest
from bench import Bench
from contending_driver import STAGES
from ray_nodes import kill


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_jobs_that_fight_for_a_run(cluster: Bench) -> None:
    run = "fight"
    log = cluster.folder / f"{run}.log"
    for _ in range(3):
        cluster.job("contending_driver.py", run)
    deadline = time.monotonic() + 300
    killed: set[str] = set()
    while cluster.state(run) != "finished":
        assert time.monotonic() < deadline
        lines = log.read_text().splitlines() if log.exists() else []
        stage = lines[-1].split(" ")[0] if lines else ""
        if stage and stage not in killed and len(killed) < 2:
            killed.add(stage)  # two of the three die, each in the middle of a stage
            kill([cluster.driver(run)])
        time.sleep(0.2)

    spans: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    order = []
    for line in log.read_text().splitlines():
        stage, epoch, at = line.split(" ")
        spans[stage][int(epoch)].append(int(at))
        order.append(int(epoch))
    assert set(spans) == set(STAGES)
    for stage, by_epoch in spans.items():
        ends = 0
        for epoch in sorted(by_epoch):
            assert min(by_epoch[epoch]) > ends, f"stage {stage}: epoch {epoch} began before the one before it had ended"
            ends = max(by_epoch[epoch])
    assert order == sorted(order)
    assert len(set(order)) == 3, "one driver at first, and one after each that was killed"
    assert sum(len(by_epoch) for by_epoch in spans.values()) == len(STAGES) + len(killed), "finished stages are kept"
