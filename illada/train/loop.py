"""The training loop of one rank: pure batches in, updates, rows of metrics, checkpoints.

Every rank computes its own rows of each batch from the pure loader, so nothing is broadcast; Megatron runs the pipeline
schedule and reduces gradients. The figures of a step and the decision to skip it come from the same reduced numbers on
every rank, so ranks cannot disagree. Rank 0 alone writes.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from torch import Tensor

from illada.artifacts import ArtifactError, Fence, check_fence, scratch_folder
from illada.data.loader import Batch, Loader
from illada.data.tokenizer import MASK_ID
from illada.diffusion.masked import corrupt, weighted_loss
from illada.model.megatron import build_module
from illada.model.weights import initial_tensor, load_hf_weights
from illada.train import checkpoint, decay, state
from illada.train.errors import DivergedError, RankError, RanksStoppedError
from illada.train.events import append_event
from illada.train.guard import History, Skip, explain, suspects
from illada.train.job import Job
from illada.train.metrics import METRICS, MetricsLog, add_micro_batch, read_rows, step_row
from illada.train.parallel import DTYPES, Wrapped, initialise_groups, wrap
from illada.train.process import device
from illada.train.schedule import learning_rate
from illada.train.sums import StepSums


def run(
    job: Job, stop: threading.Event | None = None, on_row: Callable[[Mapping[str, Any]], None] = lambda row: None
) -> None:
    """Train from the latest checkpoint to the end of the stage; torch.distributed is initialised, all ranks call this.

    Args:
        job: the stage.
        stop: set in any rank, it ends all of them after the step they are at.
        on_row: called on rank 0 with each row of metrics.

    Raises:
        RanksStoppedError: `stop` was set.
        DivergedError: as many updates in a row as `training.guard` allows had to be left out.
        StaleDriverError: on rank 0, another driver has taken the stage over.
        ValueError: data, checkpoint and configuration do not fit together.
    """
    with scratch_folder() if job.work.path is None else contextlib.nullcontext(Path(job.work.url)) as scratch:
        _run(job, stop or threading.Event(), on_row, scratch)


def _run(job: Job, stop: threading.Event, on_row: Callable[[Mapping[str, Any]], None], scratch: Path) -> None:
    initialise_groups(job.placement)
    loader = job.loader()
    found, horizon = _find(job, decay.Horizon.planned(job.training, job.total_steps(loader)))
    wrapped = _build(job, loader, found)
    history = History.from_json(found.stored.manifest["guard"]) if found.stored else History()
    fence = Fence(job.work, job.epoch)
    first = dist.get_rank() == 0
    log = MetricsLog(job.work, found.step) if first else None
    watch = decay.Watch(job.training, job.work, read_rows(job.work, METRICS)) if first else None
    stepper = _Stepper(
        job=job, loader=loader, wrapped=wrapped, horizon=horizon, history=history, stop=stop, watch=watch
    )
    if first:
        layout = {name: getattr(job.placement, name) for name in ("tensor", "pipeline", "data", "micro_batch")}
        resumed = {"resumed_from": found.stored.name} if found.stored else {}
        append_event(
            job.work, "start", step=found.step, total_steps=horizon.total_steps, epoch=job.epoch, **layout, **resumed
        )
    gc.freeze()  # Megatron collects garbage at every checkpoint; modules and weights need not be looked at again
    step = found.step
    while step < stepper.horizon.total_steps:
        if first and (data := loader.moved(step)) is not None:
            append_event(job.work, "move", step=step, data=data)
        row = stepper.step(step)
        horizon = stepper.horizon
        if log is not None and watch is not None:
            fence.check()
            log.append(row)
            if "skipped" in row:
                _record_skip(job, loader, row, stepper.history)
            watch.add(row)
            on_row({**row, "total_steps": horizon.total_steps})
        if len(stepper.history.skips) >= job.training.guard.most_skips:
            raise DivergedError(explain(stepper.history.skips, job.shards_at(step), loader.inspect))
        step += 1
        if step % job.placement.checkpoint_steps == 0 or step == horizon.total_steps:
            if log is not None:
                log.sync()
            state_of_run = {"guard": stepper.history.to_json(), **horizon.to_json()}
            _save(job, loader, wrapped, step, state_of_run, scratch)
    if first:
        append_event(job.work, "done", step=step)


def _find(job: Job, planned: decay.Horizon) -> tuple[checkpoint.Latest, decay.Horizon]:
    """The checkpoint to go on from and the horizon of the stage, looked up by rank 0."""
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        latest = checkpoint.find(job.work, job.epoch)
        found = [latest, decay.horizon(job.work, latest.stored.manifest if latest.stored else None, planned)]
    dist.broadcast_object_list(found)
    return found[0], found[1]


def _build(job: Job, loader: Loader, found: checkpoint.Latest) -> Wrapped:
    """Module and optimizer, from the checkpoint found, another stage's weights, or initial ones."""
    module = build_module(job.model, dtype=DTYPES[job.training.dtype])
    if found.stored is not None:
        loader.check(found.stored.manifest["loader"])
        wrapped = wrap(module, job.training)
        try:
            state.load(found.stored, module, wrapped.optimizer)
        except ArtifactError as error:  # found on the way from an object store: the one before may be good
            checkpoint.set_aside(job.work, found.stored.name)
            append_event(job.work, "fallback", step=found.step, reason=str(error))
            raise RankError(str(error)) from error
        return wrapped
    if job.initial is not None:
        initial = checkpoint.Stored.at(job.initial)
        checkpoint.require_model(initial, job.model)
        state.load_weights(initial, module)
    else:
        load_hf_weights(module, job.model, lambda name: initial_tensor(job.model, name, job.training.seed))
    return wrap(module, job.training)


def _record_skip(job: Job, loader: Loader, row: Mapping[str, Any], history: History) -> None:
    skip = history.skips[-1]
    append_event(
        job.work,
        "skipped",
        step=skip.step,
        reason=skip.reason,
        loss=row["loss"],
        grad_norm=row["grad_norm"],
        windows=loader.window_ids(skip.step - 1).tolist(),
        suspects=skip.suspects,
    )


def _save(
    job: Job, loader: Loader, wrapped: Wrapped, step: int, state_of_run: Mapping[str, Any], scratch: Path
) -> None:
    started = time.perf_counter()
    manifest = {
        "step": step,
        **state_of_run,
        "loader": loader.state(step),
        "model": job.model.identity(),
        "dtype": job.training.dtype,
        "layout": {"tensor": job.placement.tensor, "pipeline": job.placement.pipeline, "data": job.placement.data},
        "epoch": job.epoch,
    }
    keep = job.placement.keep_checkpoints
    saved = state.save(job.work, scratch, wrapped.module, wrapped.optimizer, manifest, keep)
    if saved is not None:
        seconds = time.perf_counter() - started
        append_event(job.work, "checkpoint", step=step, seconds=seconds, bytes=saved.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _MicroBatch:
    """Tensors of one micro-batch; b windows of s tokens, `first` a row of the rank's. See `Batch`."""

    tokens: Tensor
    mask: Tensor
    weight: Tensor
    level: Tensor
    boundaries: Tensor
    first: int


@dataclass(kw_only=True, slots=True)
class _Stepper:
    job: Job
    loader: Loader
    wrapped: Wrapped
    horizon: decay.Horizon
    history: History
    stop: threading.Event
    watch: decay.Watch | None

    def step(self, step: int) -> dict[str, Any]:
        """Make the update after `step` completed ones, or skip it; returns its metrics row, the same on all ranks."""
        started = time.perf_counter()
        training, placement = self.job.training, self.job.placement
        rows = self.loader.sizes.size(step) // placement.data
        batch = self.loader.batch(step, parallel_state.get_data_parallel_rank() * rows, rows)
        lr = learning_rate(training.schedule, step, self.horizon.total_steps, self.horizon.decay_steps)
        optimizer = self.wrapped.optimizer
        self.wrapped.set_rates(lr, training.optimizer.weight_decay)
        self.wrapped.ddp.zero_grad_buffer()
        optimizer.zero_grad()
        wanted = self.watch.wanted(step, self.horizon) if self.watch else (0, 0)
        sums = self._gradients(batch, wanted)
        stopping, over, reason = sums.signals.tolist()
        if stopping:
            check_fence(self.job.work, self.job.epoch)
            raise RanksStoppedError(f"asked to stop at step {step}")
        if over:
            self._begin_decay(step + 1, int(over), decay.REASONS[int(reason)])
        optimizer.prepare_grads()
        norm = float(optimizer.clip_grad_norm(training.optimizer.clip))
        figures = sums.figures.tolist()
        skipped = self.history.verdict(training.guard, figures[0], norm)
        if skipped is None:
            optimizer.step_with_ready_grads()
            self.history = self.history.made(training.guard, norm)
        else:
            worst = suspects(self.loader.window_ids(step).tolist(), sums.windows.tolist())
            self.history = self.history.skipped(Skip(step=step + 1, reason=skipped, suspects=worst))
        return step_row(
            figures,
            step=step + 1,
            epoch=self.loader.epoch(step),
            lr=lr,
            grad_norm=norm,
            tokens=self.loader.sizes.before(step + 1) * training.window,
            seconds=time.perf_counter() - started,
            skipped=skipped,
        )

    def _begin_decay(self, step: int, over: int, reason: decay.Reason) -> None:
        self.horizon = self.horizon.begin(step, over, reason)
        if self.watch is not None:
            decay.decide(self.job.work, self.horizon)
            append_event(self.job.work, "decay", step=step, over=self.horizon.decay_steps, reason=reason)

    def _gradients(self, batch: Batch, wanted: tuple[int, int]) -> StepSums:
        """Accumulate and reduce the gradients of this rank's rows; returns the step's sums over all ranks.

        `wanted` is rank 0's, and zeros on the others.
        """
        size, window = self.job.placement.micro_batch, self.job.training.window
        sums = StepSums.zeros(len(batch.tokens) * self.job.placement.data, device())
        first = parallel_state.get_data_parallel_rank() * len(batch.tokens)
        counted = parallel_state.get_tensor_model_parallel_rank() == 0

        def forward(micro_batches: Iterator[_MicroBatch], model: torch.nn.Module) -> tuple[Tensor, Any]:
            micro = next(micro_batches)
            positions = len(micro.tokens) * window
            output = model(corrupt(micro.tokens, micro.mask, MASK_ID), micro.boundaries, micro.tokens, micro.mask)

            def loss(cross_entropy: Tensor) -> tuple[Tensor, dict[str, Any]]:
                if counted:
                    add_micro_batch(sums.figures, cross_entropy, micro.weight, micro.level, micro.mask, window)
                    sums.add_windows(first + micro.first, cross_entropy, micro.weight, micro.mask)
                return weighted_loss(cross_entropy, micro.weight[micro.mask], positions), {}

            return output, loss

        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=_micro_batches(batch, size),
            model=[self.wrapped.ddp],
            num_microbatches=len(batch.tokens) // size,
            seq_length=batch.tokens.shape[1],
            micro_batch_size=size,
            decoder_seq_length=batch.tokens.shape[1],
            forward_only=False,
        )
        sums.signals[:] = torch.tensor([float(self.stop.is_set()), *wanted], device=device())
        sums.reduce()
        return sums


def _micro_batches(batch: Batch, size: int) -> Iterator[_MicroBatch]:
    for first in range(0, len(batch.tokens), size):
        rows = slice(first, first + size)
        yield _MicroBatch(
            **{
                name: torch.from_numpy(getattr(batch, name)[rows]).to(device())
                for name in ("tokens", "mask", "weight", "level", "boundaries")
            },
            first=first,
        )
