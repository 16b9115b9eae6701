"""A training goes on with another number of data-parallel ranks, on the same batches, when the cluster has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.cluster_utils import Cluster
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.config import ScalingConfig
from train_helpers import LONG, placement, run_stage, trace
from train_ranks import job, on_ranks

from illada.artifacts import Folder
from illada.config import ConfigError, TrainPlacement
from illada.train.checkpoint import FOLDER
from illada.train.elastic import data_ranks
from illada.train.scaling import Elastic

GENTLE = LONG.model_copy(update={"schedule": LONG.schedule.model_copy(update={"peak": 1e-3, "minimum": 1e-4})})
"""So that the order of float32 sums does not grow into another training over 100 steps."""
_QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 3}


@given(
    data=st.integers(1, 12),
    fewer=st.integers(0, 11),
    micro_batch=st.integers(1, 4),
    factors=st.lists(st.integers(1, 6), min_size=1, max_size=3),
)
def test_every_number_of_ranks_divides_every_batch(data: int, fewer: int, micro_batch: int, factors: list[int]) -> None:
    batches = [data * micro_batch * factor for factor in factors]
    least = max(1, data - fewer)
    layout = placement(data=data, min_data=least, micro_batch=micro_batch)
    possible = [
        number for number in range(least, data + 1) if all(batch % (number * micro_batch) == 0 for batch in batches)
    ]
    if possible == [data] and least < data:
        with pytest.raises(ConfigError, match=f"min_data {least}.*lower min_data"):
            data_ranks(layout, batches)
    else:
        assert data_ranks(layout, batches) == possible
    assert data_ranks(placement(data=data, micro_batch=micro_batch), batches) == [data]


def test_layouts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_data 3 is more than data 2"):
        TrainPlacement(data=2, min_data=3)
    with pytest.raises(ConfigError, match="a batch of 6 is not a multiple of data x micro_batch = 2 x 2"):
        data_ranks(placement(data=2), [8, 6])


def test_interleaved_stages_take_whole_rounds_of_micro_batches() -> None:
    layout = placement(1, 2, 3, min_data=1, virtual=2, micro_batch=1)
    assert data_ranks(layout, [6]) == [1, 3]
    with pytest.raises(
        ConfigError, match="a batch of 9 is not a multiple of data x micro_batch x pipeline = 3 x 1 x 2"
    ):
        data_ranks(layout, [9])


def test_a_layout_of_fewer_ranks() -> None:
    layout = placement(2, 2, 4, min_data=1)
    assert (layout.ranks, layout.on(8).data, layout.on(8).ranks) == (16, 2, 8)
    assert (layout.fewest.ranks, placement(2, 2, 4).fewest.ranks) == (4, 16)


class WithoutRay(Elastic):
    """Of 2, 4 or 8 ranks with half a processor each; `free` are the processors of the nodes."""

    free: list[float]

    def __init__(self, work: Path) -> None:
        half = {"CPU": 0.5}
        config = ScalingConfig(num_workers=(2, 8), resources_per_worker=half, elastic_resize_monitor_interval_s=0.0)
        super().__init__(config, [2, 4, 8], Folder.at(work))

    def _maybe_send_resource_request(self) -> None:
        pass

    def _get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return {str(node): {"CPU": free} for node, free in enumerate(self.free)}


@pytest.mark.parametrize(
    ("free", "ranks"), [([4.0], 8), ([1.0, 1.0], 4), ([1.75, 1.75], 4), ([0.75, 0.75], 2), ([0.4, 0.4, 0.9], 0)]
)
def test_as_many_ranks_are_started_as_fit(free: list[float], ranks: int, tmp_path: Path) -> None:
    policy = WithoutRay(tmp_path)
    policy.free = free
    decision = policy.make_decision_for_non_running_worker_group()
    assert getattr(decision, "num_workers", 0) == ranks
    assert isinstance(decision, ResizeDecision if ranks else NoopDecision)


def test_a_healthy_training_grows_after_its_next_checkpoint_and_never_shrinks(tmp_path: Path) -> None:
    def running(ranks: int) -> int | None:
        state = SimpleNamespace(num_workers=ranks, start_time=0.0)
        decision = policy.make_decision_for_running_worker_group(state, None)
        return getattr(decision, "num_workers", None)

    policy = WithoutRay(tmp_path)
    (tmp_path / FOLDER / "step-00000010").mkdir(parents=True)
    policy.free = [1.0]
    assert running(4) is None
    policy.free = [4.0]
    assert running(2) is None, "no checkpoint since there is room"
    assert running(2) is None
    (tmp_path / FOLDER / "step-00000020").mkdir()
    assert running(2) == 8
    assert running(8) is None


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A node for the driver, and two with room for one rank each."""
    ray.shutdown()
    monkeypatch.setitem(os.environ, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": _QUICK})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.faults
def test_a_lost_node_leaves_fewer_ranks(cluster: Cluster, shards: Path, tmp_path: Path) -> None:
    class Losing:
        lost = False

        def start(self, total: float | None, unit: str) -> None: ...

        def update(self, done: float, **figures: float | str) -> None:
            if done >= 21 and not self.lost:
                self.lost = True
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    layout = placement(data=2, min_data=1, cpus_per_rank=1.0)
    output, statistics = run_stage(tmp_path, shards, layout, training=GENTLE, progress=Losing())
    assert statistics["restarts"] >= 1
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    starts = [event for event in events if event["event"] == "start"]
    assert [row["data"] for row in starts] == [2, 1]
    assert starts[1]["resumed_from"] == f"step-{starts[1]['step']:08d}" and 10 <= starts[1]["step"] < LONG.steps
    on_ranks(job(tmp_path / "one", shards, placement(), training=GENTLE))
    rows, expected = trace(output / "metrics.jsonl"), trace(tmp_path / "one" / "metrics.jsonl")
    assert len(rows) == len(expected) == LONG.steps
    for row, other in zip(rows, expected, strict=True):
        for exact in ("step", "epoch", "lr", "masked_fraction", "tokens", "positions_by_noise"):
            assert row[exact] == other[exact]
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
