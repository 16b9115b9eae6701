"""Decides in Ray Train's controller how many ranks are started, of the numbers there may be.

Ray Train's own elasticity takes as many workers as fit. Here it is told which numbers there are, looks at the cluster
as it is now, and interrupts a healthy training only when a new checkpoint is there to go on from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import ScalingConfig

from illada.artifacts import Folder
from illada.train.checkpoint import published

LOOK_SECONDS = 30.0
"""How often a running training looks whether the cluster has grown."""
_ASK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0


class Elastic(ElasticScalingPolicy):
    """Runs in Ray Train's controller: decides on the number of ranks whenever they are started."""

    def __init__(self, scaling_config: ScalingConfig, ranks: Sequence[int], work: Folder) -> None:
        """`ranks` are the numbers there may be, ascending; `work` is where checkpoints appear."""
        super().__init__(scaling_config)
        self._ranks, self._work = ranks, work
        self._growing: ResizeDecision | None = None
        self._newest: list[str] = []
        self._asked = float("-inf")

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Grow, once the next checkpoint is there; what shrinks the group is a failure, and comes without asking."""
        running = worker_group_state.num_workers
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision) and decision.num_workers > running and self._growing is None:
            self._growing, self._newest = decision, published(self._work)[-1:]
        growing = self._growing
        if growing is None or published(self._work)[-1:] == self._newest:
            return NoopDecision()
        self._growing = None
        return growing if growing.num_workers > running else NoopDecision()

    def _count_possible_workers(self, reserved_resources: Mapping[str, Mapping[str, float]]) -> int:
        """The most ranks there may be on what each node has for them; 0 where it is not enough for any."""
        needed = {name: size for name, size in self.scaling_config._resources_per_worker_not_none.items() if size > 0}
        fitting = sum(
            min(int(node.get(name, 0.0) / size + 1e-6) for name, size in needed.items())
            for node in reserved_resources.values()
        )
        return max((ranks for ranks in self._ranks if ranks <= fitting), default=0)

    def _get_reserved_resources(self) -> Any:
        """Of the nodes that are alive now; Ray's own answer may be 20 seconds old and count a node that was lost."""
        time.sleep(max(0.0, self._asked + _ASK_SECONDS - time.monotonic()))  # Ray asks without a pause
        self._asked = time.monotonic()
        ask = self._autoscaling_coordinator.get_reserved_resources
        try:
            return ray.get(ask.remote(self._requester_id, recompute=True), timeout=_ANSWER_SECONDS)
        except ray.exceptions.RayError:
            return None  # the control service is busy: asked again
