"""One update: gradients of this rank's rows, their reduction, and whether they are used.

Every rank computes its own rows of each batch from the pure loader, so nothing is broadcast; Megatron runs the pipeline
schedule and reduces gradients. The figures of a step and the decision to skip it come from the same reduced numbers on
every rank, so ranks cannot disagree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from torch import Tensor

from illada.artifacts import check_fence
from illada.data.loader import Batch, Loader
from illada.data.tokenizer import BOS_ID, MASK_ID
from illada.diffusion.autoregressive import shifted
from illada.diffusion.masked import corrupt, weighted_loss
from illada.model.megatron import context_slice
from illada.train import decay
from illada.train.errors import RanksStoppedError
from illada.train.events import append_event
from illada.train.guard import History, Skip, suspects
from illada.train.job import Job
from illada.train.metrics import add_micro_batch, step_row
from illada.train.parallel import Wrapped
from illada.train.process import device
from illada.train.pulse import Pulse
from illada.train.saver import Saver
from illada.train.schedule import learning_rate
from illada.train.straggler import Stopwatch, slowest
from illada.train.sums import StepSums


@dataclass(frozen=True, kw_only=True, slots=True)
class _MicroBatch:
    """Tensors of one micro-batch; s tokens, those of this context-parallel rank, of b windows. See `Batch`.

    `first` is a row of the rank's, and `boundaries` are of whole windows.
    """

    tokens: Tensor
    mask: Tensor
    weight: Tensor
    level: Tensor
    boundaries: Tensor
    first: int


@dataclass(kw_only=True, slots=True)
class Stepper:
    """Makes updates one after another; knows what the next one depends on besides weights and data.

    `watch` is rank 0's alone.
    """

    job: Job
    loader: Loader
    wrapped: Wrapped
    horizon: decay.Horizon
    history: History
    stop: threading.Event
    watch: decay.Watch | None
    pulse: Pulse
    saver: Saver
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def step(self, step: int) -> dict[str, Any]:
        """Make the update after `step` completed ones, or skip it; returns its metrics row, the same on all ranks."""
        started = time.perf_counter()
        self.pulse.mark(step, "computing")
        self.stopwatch.start()
        self.wrapped.before_reduction(partial(self._computed, step))
        training, placement = self.job.training, self.job.placement
        rows = self.loader.sizes.size(step) // placement.data
        batch = self.loader.batch(step, parallel_state.get_data_parallel_rank() * rows, rows)
        lr = learning_rate(training.schedule, step, self.horizon.total_steps, self.horizon.decay_steps)
        optimizer = self.wrapped.optimizer
        self.wrapped.set_rates(lr, training.optimizer.weight_decay)
        self.wrapped.zero_gradients()
        wanted = self.watch.wanted(step, self.horizon) if self.watch else (0, 0)
        agreed = self.saver.agreed
        sums = self._gradients(batch, wanted)
        stopping, over, reason, written = sums.signals.tolist()
        if stopping:
            check_fence(self.job.work, self.job.epoch)
            raise RanksStoppedError(f"asked to stop at step {step}")
        if over:
            self._begin_decay(step + 1, int(over), decay.REASONS[int(reason)])
        if agreed:
            self.saver.publish(sums.digests)
        elif written == dist.get_world_size():
            self.saver.agree()
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
            compute=slowest(sums.seconds.tolist()),
            skipped=skipped,
        )

    def _computed(self, step: int) -> None:
        self.stopwatch.stop()
        self.pulse.mark(step, "reducing")

    def _begin_decay(self, step: int, over: int, reason: decay.Reason) -> None:
        self.horizon = self.horizon.begin(step, over, reason)
        if self.watch is not None:
            decay.decide(self.job.work, self.horizon)
            append_event(self.job.work, "decay", step=step, over=self.horizon.decay_steps, reason=reason)

    def _gradients(self, batch: Batch, wanted: tuple[int, int]) -> StepSums:
        """Accumulate and reduce the gradients of this rank's rows; returns the step's sums over all ranks.

        `wanted` is rank 0's, and zeros on the others.
        """
        placement, window = self.job.placement, self.job.training.window
        size, part = placement.micro_batch, window // placement.context
        sums = StepSums.zeros(len(batch.tokens) * placement.data, device(), digests=self.saver.agreed)
        first = parallel_state.get_data_parallel_rank() * len(batch.tokens)
        masked = self.job.training.objective.kind == "masked"
        counted = parallel_state.get_tensor_model_parallel_rank() == 0

        def forward(micro_batches: Iterator[_MicroBatch], model: torch.nn.Module) -> tuple[Tensor, Any]:
            micro = next(micro_batches)
            positions = len(micro.tokens) * window
            if masked:
                inputs = corrupt(micro.tokens, micro.mask, MASK_ID)
            else:
                inputs = shifted(micro.tokens, micro.boundaries, BOS_ID)
            output = model(inputs, micro.boundaries, micro.tokens, micro.mask)

            def loss(cross_entropy: Tensor) -> tuple[Tensor, dict[str, Any]]:
                if counted:
                    level = micro.level if masked else None
                    add_micro_batch(sums.figures, cross_entropy, micro.weight, level, micro.mask, part)
                    sums.add_windows(first + micro.first, cross_entropy, micro.weight, micro.mask)
                return weighted_loss(cross_entropy, micro.weight[micro.mask], positions), {}

            return output, loss

        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=[_micro_batches(batch, size) for _ in self.wrapped.ddp],
            model=self.wrapped.ddp,
            num_microbatches=len(batch.tokens) // size,
            seq_length=batch.tokens.shape[1],
            micro_batch_size=size,
            decoder_seq_length=batch.tokens.shape[1],
            forward_only=False,
        )
        sums.signals[:] = torch.tensor(
            [float(self.stop.is_set()), *wanted, float(self.saver.written())], device=device()
        )
        sums.seconds[dist.get_rank()] = self.stopwatch.seconds()
        if self.saver.agreed:
            sums.digests[dist.get_rank()] = self.saver.digest()
        sums.reduce()
        return sums


def _micro_batches(batch: Batch, size: int) -> Iterator[_MicroBatch]:
    mine = context_slice(batch.tokens.shape[1])
    for first in range(0, len(batch.tokens), size):
        rows = slice(first, first + size)
        yield _MicroBatch(
            **{
                name: torch.from_numpy(getattr(batch, name)[rows, mine]).to(device())
                for name in ("tokens", "mask", "weight", "level")
            },
            boundaries=torch.from_numpy(batch.boundaries[rows]).to(device()),
            first=first,
        )
