"""The training loop of one rank: from the newest checkpoint to the end, rows of metrics, checkpoints.

The updates are `illada.train.stepper`'s. Every rank goes through the same loop; rank 0 alone writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from illada.artifacts import ArtifactError, Fence, scratch_folder
from illada.data.loader import Loader
from illada.model.megatron import build_modules
from illada.model.weights import initial_tensor, load_hf_weights
from illada.train import checkpoint, decay, state
from illada.train.errors import DivergedError, RankError
from illada.train.events import append_event
from illada.train.guard import History, explain
from illada.train.job import Job
from illada.train.metrics import METRICS, MetricsLog, read_rows
from illada.train.parallel import DTYPES, Wrapped, initialise_groups, wrap
from illada.train.pulse import Pulse
from illada.train.saver import Saver
from illada.train.stepper import Stepper


def run(
    job: Job,
    stop: threading.Event | None = None,
    on_row: Callable[[Mapping[str, Any]], None] = lambda row: None,
    pulse: Pulse | None = None,
) -> None:
    """Train from the latest checkpoint to the end of the stage; torch.distributed is initialised, all ranks call this.

    Args:
        job: the stage.
        stop: set in any rank, it ends all of them after the step they are at.
        on_row: called on rank 0 with each row of metrics.
        pulse: is told where this rank is.

    Raises:
        RanksStoppedError: `stop` was set.
        DivergedError: as many updates in a row as `training.guard` allows had to be left out.
        StaleDriverError: on rank 0, another driver has taken the stage over.
        ValueError: data, checkpoint and configuration do not fit together.
    """
    with scratch_folder() if job.work.path is None else contextlib.nullcontext(Path(job.work.url)) as scratch:
        _run(job, stop or threading.Event(), on_row, pulse or Pulse(), scratch)


def _run(
    job: Job, stop: threading.Event, on_row: Callable[[Mapping[str, Any]], None], pulse: Pulse, scratch: Path
) -> None:
    job = dataclasses.replace(job, placement=job.placement.on(dist.get_world_size()))
    initialise_groups(job.placement)
    loader = job.loader()
    found, horizon = _find(job, decay.Horizon.planned(job.training, job.total_steps(loader)))
    pulse.mark(found.step, "starting")
    wrapped = _build(job, loader, found)
    history = History.from_json(found.stored.manifest["guard"]) if found.stored else History()
    fence = Fence(job.work, job.epoch)
    first = dist.get_rank() == 0
    log = MetricsLog(job.work, found.step) if first else None
    watch = decay.Watch(job.training, job.work, read_rows(job.work, METRICS)) if first else None
    saver = Saver(job.work, scratch, wrapped, job.placement.keep_checkpoints, log)
    stepper = Stepper(
        job=job,
        loader=loader,
        wrapped=wrapped,
        horizon=horizon,
        history=history,
        stop=stop,
        watch=watch,
        pulse=pulse,
        saver=saver,
    )
    if first:
        layout = {**job.placement.layout, "micro_batch": job.placement.micro_batch}
        resumed = {"resumed_from": found.stored.name} if found.stored else {}
        append_event(
            job.work, "start", step=found.step, total_steps=horizon.total_steps, epoch=job.epoch, **layout, **resumed
        )
    dist.barrier()  # no rank waits in its first step for one that still reads: that would look like standing still
    gc.freeze()  # modules and weights need not be looked at again by the collector of garbage
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
            pulse.mark(step, "saving")
            saver.begin(_manifest(job, loader, stepper, step))
    saver.finish()
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
    modules = build_modules(job.model, dtype=DTYPES[job.training.dtype])
    if found.stored is not None:
        loader.check(found.stored.manifest["loader"])
        wrapped = wrap(modules, job.training)
        try:
            state.load(found.stored, modules, wrapped.optimizer)
        except ArtifactError as error:  # found on the way from an object store: the one before may be good
            checkpoint.reject(job.work, found.stored.name, str(error))
            append_event(job.work, "fallback", step=found.step, reason=str(error))
            raise RankError(str(error)) from error
        return wrapped
    if job.initial is not None:
        initial = checkpoint.Stored.at(job.initial)
        checkpoint.require_model(initial, job.model)
        state.load_weights(initial, modules)
    else:
        for module in modules:
            load_hf_weights(module, job.model, lambda name: initial_tensor(job.model, name, job.training.seed))
    return wrap(modules, job.training)


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


def _manifest(job: Job, loader: Loader, stepper: Stepper, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "guard": stepper.history.to_json(),
        **stepper.horizon.to_json(),
        "loader": loader.state(step),
        "model": job.model.identity(),
        "dtype": job.training.dtype,
        "layout": job.placement.layout,
        "epoch": job.epoch,
    }
