"""Whatever dies in the middle of any stage, a submitted run ends finished, with the bytes of an undisturbed one.

The undisturbed one trained on a machine of its own: that a cluster makes no other bytes is tested with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import pytest
from bench import FAULTS, Bench
from chain import STAGES, losses, published

# Successive stages, successive faults; what takes longest (head, database) comes once. `make chaos` does them all.
ROTATION = dict(
    zip(
        STAGES,
        (
            "driver", "supervisor", "worker", "driver", "supervisor", "head", "worker", "driver", "supervisor",
            "worker", "database", "supervisor", "driver", "worker", "supervisor",
        ),
        strict=True,
    )
)  # fmt: skip


def check(cluster: Bench, run: str, plan: Mapping[str, str], undisturbed: Path) -> None:
    """The run's artifacts and losses are the undisturbed one's, and one driver at a time worked on it."""
    expected, got = published(undisturbed), published(cluster.store(run))
    assert set(got) == set(STAGES)
    for stage in STAGES:
        assert got[stage] == expected[stage], stage
    for stage in ("pretrain", "sft"):
        assert losses(cluster.store(run), stage) == losses(undisturbed, stage)
    ((status, wanted, jobs),) = cluster.query("select status, wanted, jobs from illada_runs where run_id = %s", run)
    assert (status, wanted) == ("finished", False)
    lost = sum(fault in ("supervisor", "head") for fault in plan.values())
    assert jobs == 1 + lost, "a job for the beginning and for each that was lost, and no other"
    epochs = [epoch for (epoch,) in cluster.query(
        "select epoch from illada_events where run_id = %s and epoch > 0 order by id", run
    )]  # fmt: skip
    assert epochs == sorted(epochs), "no driver was heard of after the next one had begun"
    assert epochs[-1] >= 1 + lost + sum(fault == "driver" for fault in plan.values())
    missed = []
    for stage, fault in plan.items():
        builds = cluster.query(
            "select distinct epoch from illada_events where run_id = %s and stage = %s and kind = 'attempt'", run, stage
        )
        if fault in ("driver", "supervisor", "head") and len(builds) != 2:
            missed.append(f"{stage}: built by {builds}")
    assert len(missed) <= 1, f"the fault came in the middle of all stages but one of a tenth of a second: {missed}"


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_fault_in_every_stage(cluster: Bench, uninterrupted: Path) -> None:
    cluster.run_with_faults("rotation", ROTATION)
    check(cluster, "rotation", ROTATION, uninterrupted)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_in_every_stage(
    cluster: Bench, uninterrupted: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = dict(zip(STAGES, cycle([fault]), strict=False))
    seconds = cluster.run_with_faults(fault, plan)
    check(cluster, fault, plan, uninterrupted)
    with capsys.disabled():
        print(f"\n{fault}: seconds to the stage's artifact", json.dumps({k: round(v) for k, v in seconds.items()}))
