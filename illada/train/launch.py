"""Starts the ranks of a training stage with Ray Train, restarts them when one fails, and tells why.

Ray Train v2 places the ranks, forms their process group and restarts the group when a rank dies; ranks then find the
latest checkpoint themselves. `fit()` blocks and cannot be cancelled, so it runs in a thread; to stop, a flag is set in
Ray's control service that every rank watches: they agree to end after their current step, or end the hard way if that
takes too long. The same happens when a newer driver has taken the stage over, so that no orphan of a lost driver goes
on writing.

This module is imported by driver and controller, which need neither torch nor Megatron: imports stay local.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError
from ray.train.v2.api.callback import UserCallback

from illada.artifacts import Folder, StaleDriverError
from illada.data.batch_sizes import BatchSizes
from illada.train import control
from illada.train.checkpoint import published
from illada.train.elastic import data_ranks
from illada.train.errors import RankError, RanksStoppedError
from illada.train.events import append_event
from illada.train.job import Job
from illada.train.pulse import Beat, blame
from illada.train.rank import LOGS, log_name, rank_main
from illada.train.scaling import LOOK_SECONDS, Elastic

_LOST_PEER = ("connection closed", "connection reset", "connection refused", "broken pipe", "gloo", "nccl", "timed out")
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead rank and the end of training are noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more process; checkpoints are what survives a preemption
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_HEALTH_TIMEOUT = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"  # after which a process that does not answer is dead
_STOP_SECONDS = 1.0
_COLLECTIVE_SECONDS = 1800.0  # PyTorch's own patience


class Ranks:
    """The running ranks of a job. Call `stop` whatever happens."""

    def __init__(self, job: Job, scratch: Path) -> None:
        self._key = f"illada-ranks-{uuid.uuid4().hex[:16]}"
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(job, scratch), name="ray-train", daemon=True)
        self._thread.start()

    def last_row(self) -> dict[str, Any] | None:
        """The newest row of metrics of the ranks that run now, None before their first step."""
        data = control.read(self._key, control.ROW)
        row: dict[str, Any] | None = None if data is None else json.loads(data)
        return row

    def wait(self, seconds: float) -> bool:
        """Whether training has ended, waiting up to `seconds`.

        Raises:
            RankError: a rank died more often than the placement allows.
            Exception: whatever a rank raised that a restart would not cure, as it was raised.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def stop(self) -> None:
        """End all ranks at once, also those that only start later; waits a few seconds for them."""
        if self._thread.is_alive():
            control.write(self._key, control.STOP, b"")
            self._thread.join(_STOP_SECONDS)
        for name in (control.ROW, *control.names(self._key, control.BEAT)):
            control.forget(self._key, name)
        if not self._thread.is_alive():
            control.forget(self._key, control.STOP)

    def _run(self, job: Job, scratch: Path) -> None:
        try:
            _fit(job, scratch, self._key)
        except BaseException as error:  # handed to the thread that waits
            self._error = error


def _fit(job: Job, scratch: Path, key: str) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    hang = job.placement.hang_seconds
    os.environ[_HEALTH_TIMEOUT] = str(hang or _COLLECTIVE_SECONDS)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    place = job.placement
    possible = data_ranks(place, (batch for _, batch in BatchSizes.of(job.training).stages))
    ranks = [data * place.ranks // place.data for data in possible]

    class Trainer(TorchTrainer):
        """Without the detached actor that watches the controller: it asks Ray's dashboard, which may not run."""

        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            if len(ranks) > 1:
                arguments["scaling_policy"] = Elastic(self.scaling_config, ranks, job.work)
            return super()._initialize_and_run_controller(**arguments)

    gpus = {"GPU": place.gpus_per_rank} if place.gpus_per_rank else {}
    trainer = Trainer(
        rank_main,
        train_loop_config={"job": job.to_json(), "key": key},
        torch_config=TorchConfig(
            backend="nccl" if gpus else "gloo",
            timeout_s=int(max(_COLLECTIVE_SECONDS, 2 * (hang or 0))),  # the watch comes first, and can tell who it was
        ),
        scaling_config=ScalingConfig(
            num_workers=(ranks[0], ranks[-1]) if len(ranks) > 1 else place.ranks,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": place.cpus_per_rank, **gpus},
            elastic_resize_monitor_interval_s=LOOK_SECONDS,
        ),
        run_config=RunConfig(
            name="ranks",
            storage_path=str(
                (job.work.path or scratch) / "ray"
            ),  # of Ray Train's own checkpoints, of which there are none
            failure_config=FailureConfig(max_failures=-1),  # the callback counts, and ends it
            callbacks=[_Failures(job.work, key, place.max_failures, hang)],
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        raise error.controller_failure from error
    except WorkerGroupError as error:
        raise describe(error.worker_failures, job.work) from error


class _Failures(UserCallback):
    """Runs in Ray Train's controller: records each failure, and refuses to restart what would only fail again.

    After `most` failures that no checkpoint came between, the next one is the last. In months of training on many nodes
    any number of them is lost.
    """

    def __init__(self, work: Folder, key: str, most: int, hang_seconds: float | None) -> None:
        self._work, self._key, self._most, self._left = work, key, most, most
        self._hang_seconds = hang_seconds
        self._newest: list[str] = []

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called once for each failure of the group; raising ends the run."""
        if control.read(self._key, control.STOP) is not None:
            raise RanksStoppedError
        error = describe(worker_exceptions, self._work)
        hang = self._hang(worker_exceptions)
        if hang is not None and isinstance(error, RankError):
            error = RankError(hang)
        if isinstance(error, StaleDriverError):
            raise error  # the work folder is another driver's now
        if not isinstance(error, RankError):
            append_event(self._work, "failed", reason=f"{type(error).__name__}: {error}")
            raise error
        newest = published(self._work)[-1:]
        if newest != self._newest:
            self._newest, self._left = newest, self._most
        self._left -= 1
        append_event(self._work, "restart" if self._left >= 0 else "failed", reason=str(error))
        if self._left < 0:
            raise error

    def _hang(self, failures: Mapping[int, Exception]) -> str | None:
        """Who kept the group waiting, if that is why it ended; forgets what its ranks told."""
        frozen = [rank for rank, error in failures.items() if isinstance(error, WorkerHealthCheckTimeoutError)]
        names = control.names(self._key, control.BEAT)
        beats = {int(name.removeprefix(control.BEAT)): control.read(self._key, name) for name in names}
        for name in names:
            control.forget(self._key, name)
        if self._hang_seconds is None:
            return None
        return blame({rank: Beat.from_bytes(data) for rank, data in beats.items() if data}, frozen, self._hang_seconds)


def describe(failures: Mapping[int, Exception], work: Folder) -> Exception:
    """The one error that explains a failed group: the exception itself, or a RankError where a restart may help.

    When one rank fails, the others fail too as their peer is gone; they are the last to be asked. What is neither an
    error of communication nor of input and output is a deterministic one: the same step would raise it again.
    """

    def order(item: tuple[int, Exception]) -> tuple[int, int]:
        rank, error = item
        return (1 if _process_died(error) else 2 if _lost_peer(error) else 0), rank

    rank, error = min(failures.items(), key=order)
    if _process_died(error):
        reason = f"killed, out of memory or crashed ({_cause(error)})"
        return RankError(f"rank {rank} died: {reason}{_last_words(work, rank)}")
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, RuntimeError | OSError) and not full:
        return RankError(f"rank {rank}: {type(error).__name__}: {error}")
    return error


def _process_died(error: Exception) -> bool:
    return isinstance(error, RayActorError) or "HealthCheck" in type(error).__name__


def _lost_peer(error: Exception) -> bool:
    return isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in _LOST_PEER)


def _cause(error: Exception) -> str:
    text = " ".join(str(getattr(error, "health_check_failure", error)).split())
    return (text.partition("Worker exit detail: ")[2] or text).partition(" Some common causes")[0]


def _last_words(work: Folder, rank: int) -> str:
    """The end of a rank's log, where a crash leaves its message."""
    try:
        lines = (work / LOGS).read_bytes(log_name(rank)).decode(errors="replace").splitlines()[-5:]
    except FileNotFoundError:
        return ""
    return "; its last output: " + " | ".join(lines) if lines else ""
