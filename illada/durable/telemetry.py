"""Metrics of runs, through Ray's metrics API: every node's Ray exports them to Prometheus beside Ray's own.

A listener of stage progress like the terminal's. It costs nothing while Ray is not up (stages that are reused start
none); once it is, what was said before is published too. Ray puts `ray_` before each name. The series live as long as
the driver: what outlives it is in the run database.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from illada.durable.progress import StageStatus

STATES = ("pending", "running", "done", "reused", "failed", "stopped")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One gauge. `tags` are those beside run and stage; `figure` is the progress figure it shows, where it is one."""

    name: str
    description: str
    tags: tuple[str, ...] = ()
    figure: str | None = None


_STATE = Metric(name="illada_stage_state", description="1 for the state the stage is in, 0 for others", tags=("state",))
_PROGRESS = Metric(name="illada_stage_progress_ratio", description="Part of the stage that is done, 0 to 1")
_DONE = Metric(name="illada_stage_units", description="Units done, as the stage counts them", tags=("unit",))
_RATE = Metric(name="illada_stage_units_per_second", description="Units a second, last half minute", tags=("unit",))
_LEFT = Metric(name="illada_stage_eta_seconds", description="Seconds left at this rate")
_SECONDS = Metric(name="illada_stage_duration_seconds", description="Seconds since this driver began the stage")
_ATTEMPTS = Metric(name="illada_stage_attempts", description="Builds started, over all drivers of the run")
_UPDATED = Metric(name="illada_stage_updated_timestamp_seconds", description="When the stage last told of itself")
_FIGURES = (
    Metric(
        name="illada_training_tokens_per_second", description="Tokens a second, last step", figure="tokens_per_second"
    ),
    Metric(name="illada_training_tokens", description="Tokens trained on, of the whole stage", figure="tokens"),
    Metric(name="illada_training_loss_nats", description="Loss of the last step, nats a token", figure="loss"),
    Metric(name="illada_training_learning_rate", description="Learning rate of the last step", figure="lr"),
    Metric(name="illada_training_gradient_norm", description="Gradient norm before clipping", figure="grad_norm"),
    Metric(
        name="illada_training_goodput_ratio",
        description="Seconds of steps that count over wall seconds, since this driver began to train",
        figure="goodput",
    ),
    Metric(name="illada_training_restarts", description="Times the ranks were started again", figure="restarts"),
)

METRICS = (_STATE, _PROGRESS, _DONE, _RATE, _LEFT, _SECONDS, _ATTEMPTS, _UPDATED, *_FIGURES)
"""All there are; dashboards and alerts are checked against them."""


class StageMetrics:
    """A listener for the engine. Give it to `illada.durable.engine.execute`; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, StageStatus] = {}
        self._gauges: dict[str, Any] = {}
        self._shown: dict[tuple[str, str], StageStatus] = {}

    def __call__(self, status: StageStatus) -> None:
        """Take one update."""
        with self._lock:
            self._waiting[status.stage] = status
            if not _ray_is_up():
                return
            waiting, self._waiting = self._waiting, {}
            for each in waiting.values():
                self._publish(each)

    def _publish(self, status: StageStatus) -> None:
        key = (status.run_id, status.stage)
        before = self._shown.get(key)
        self._shown[key] = status
        for state in STATES if before is None else {before.state, status.state}:
            self._set(_STATE, status, float(state == status.state), state=state)
        self._set(_ATTEMPTS, status, status.attempt)
        self._set(_UPDATED, status, status.updated)
        if status.started is not None:
            self._set(_SECONDS, status, time.time() - status.started if status.seconds is None else status.seconds)
        over = status.state in ("done", "reused")
        if over or (status.done is not None and status.total):
            self._set(_PROGRESS, status, 1.0 if over else (status.done or 0.0) / (status.total or 1.0))
        if before is not None and before.unit and before.unit != status.unit:
            self._set(_RATE, before, 0.0, unit=before.unit)
        if status.done is not None and status.unit:
            self._set(_DONE, status, status.done, unit=status.unit)
            self._set(_RATE, status, (status.rate or 0.0) if status.state == "running" else 0.0, unit=status.unit)
        self._set(_LEFT, status, 0.0 if over else status.eta)
        self._show_figures(status, status.figures)

    def _show_figures(self, status: StageStatus, figures: Mapping[str, float | str]) -> None:
        for metric in _FIGURES:
            value = figures.get(metric.figure or "")
            if isinstance(value, int | float):  # what is not a finite number arrives as text
                self._set(metric, status, value)

    def _set(self, metric: Metric, status: StageStatus, value: float | None, **tags: str) -> None:
        if value is None:
            return
        gauge = self._gauges.get(metric.name)
        if gauge is None:
            from ray.util.metrics import Gauge

            gauge = Gauge(metric.name, metric.description, ("run", "stage", *metric.tags))
            self._gauges[metric.name] = gauge
        gauge.set(value, {"run": status.run_id, "stage": status.stage, **tags})


def _ray_is_up() -> bool:
    """Without importing Ray, which takes a second, into a process that has no use for it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
