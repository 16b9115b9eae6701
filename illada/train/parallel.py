"""The model of one rank inside Megatron's data-parallel wrapper and distributed optimizer.

The optimizer is Megatron's distributed one (ZeRO-1: optimizer state divided over data-parallel ranks), under every
layout and also on gloo, so that all checkpoints have one form. It is AdamW with decoupled weight decay; as Megatron
does by default, biases and one-dimensional parameters (here: the norms) are not decayed, embeddings are. With bfloat16,
weights and activations are bfloat16 while gradients, main weights and moments are float32.
"""

from __future__ import annotations

from collections.abc import Callable
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
    parallel_state.initialize_model_parallel(placement.tensor, placement.pipeline, create_gloo_process_groups=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrapped:
    """A module ready to train: the module itself, its data-parallel wrapper, its optimizer."""

    module: DiffusionGPT
    ddp: DistributedDataParallel
    optimizer: DistributedOptimizer

    def set_rates(self, lr: float, weight_decay: float) -> None:
        """Learning rate and weight decay of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = weight_decay * group["wd_mult"]

    def before_reduction(self, act: Callable[[], None]) -> None:
        """Have `act` called in every step when this rank's gradients are complete, before they are reduced."""

        def finalize(*arguments: Any, **options: Any) -> None:
            act()
            finalize_model_grads(*arguments, **options)

        self.module.config.finalize_model_grads_func = finalize


def wrap(module: DiffusionGPT, training: Training) -> Wrapped:
    """Gradient buffers and optimizer for `module`, whose weights become the optimizer's main weights."""
    module.config.finalize_model_grads_func = finalize_model_grads
    reduce = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    ddp = DistributedDataParallel(module.config, reduce, module)
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
    chain = get_megatron_optimizer(config, [ddp], use_gloo_process_groups=False)
    (optimizer,) = chain.chained_optimizers  # one, as there are no experts
    return Wrapped(module=module, ddp=ddp, optimizer=optimizer)
