"""The model of one rank inside Megatron's data-parallel wrapper and distributed optimizer.

The optimizer is Megatron's distributed one (ZeRO-1: optimizer state divided over data-parallel ranks), under every
layout and also on gloo, so that all checkpoints have one form. With context parallelism the ranks that share a window
reduce gradients, and divide the state, as if they had windows of their own. Gradients are reduced bucket by bucket
while the backward pass of the last micro-batch goes on. It is AdamW with decoupled weight decay; as Megatron does by
default, biases and one-dimensional parameters (here: the norms) are not decayed, embeddings are. With bfloat16, weights
and activations are bfloat16 while gradients, main weights and moments are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from illada.config import Training, TrainPlacement
from illada.model.megatron import DiffusionGPT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def initialise_groups(placement: TrainPlacement) -> None:
    """Megatron's process groups for the layout. ValueError when the number of ranks is not the layout's."""
    ranks = torch.distributed.get_world_size()
    if ranks != placement.ranks:
        raise ValueError(f"the layout has {placement.ranks} ranks, but {ranks} were started")
    parallel_state.initialize_model_parallel(
        placement.tensor,
        placement.pipeline,
        placement.virtual if placement.virtual > 1 else None,
        context_parallel_size=placement.context,
        create_gloo_process_groups=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrapped:
    """A rank ready to train: the module of each virtual pipeline stage, their data-parallel wrappers, one optimizer."""

    modules: Sequence[DiffusionGPT]
    ddp: list[DistributedDataParallel]
    optimizer: DistributedOptimizer

    def zero_gradients(self) -> None:
        """Before a step."""
        for chunk in self.ddp:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    def set_rates(self, lr: float, weight_decay: float) -> None:
        """Learning rate and weight decay of the next update."""
        for group in self.optimizer.param_groups:
            group["fused"] = True  # one pass over weights, gradients and moments; checkpoints bring their own value
            group["lr"] = lr
            group["weight_decay"] = weight_decay * group["wd_mult"]

    def before_reduction(self, act: Callable[[], None]) -> None:
        """Have `act` called in every step when this rank's gradients are complete, before it waits for others'."""

        def finalize(*arguments: Any, **options: Any) -> None:
            act()
            finalize_model_grads(*arguments, **options)

        self.modules[0].config.finalize_model_grads_func = finalize


def wrap(modules: Sequence[DiffusionGPT], training: Training) -> Wrapped:
    """Gradient buffers and optimizer for a rank's modules, whose weights become the optimizer's main weights."""
    shared = modules[0].config
    shared.finalize_model_grads_func = finalize_model_grads
    reduce = DistributedDataParallelConfig(
        use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=True
    )
    ddp = [DistributedDataParallel(shared, reduce, module) for module in modules]
    shared.no_sync_func = ddp[0].no_sync if len(ddp) == 1 else [chunk.no_sync for chunk in ddp]
    settings = training.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=training.schedule.peak,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        adam_eps=settings.eps,
        clip_grad=settings.clip,
        use_distributed_optimizer=True,
        bf16=training.dtype == "bfloat16",
        params_dtype=DTYPES[training.dtype],
    )
    chain = get_megatron_optimizer(config, ddp, use_gloo_process_groups=False)
    (optimizer,) = chain.chained_optimizers  # one, as there are no experts
    return Wrapped(modules=modules, ddp=ddp, optimizer=optimizer)
