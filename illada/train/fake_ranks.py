"""Builds ranks of a layout one after another in this one process, without their memory and without their peers.

The ranks are in torch's fake process group, whose collectives return at once, and their tensors are fake
(`illada.train.fake`); modules, gradient buffers, optimizer and pipeline schedule are those of the trainer. What this
does to torch stays in the process, which should therefore be one of its own: `illada.train.dry_run` starts it.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from illada.config import ModelConfig, Training, TrainPlacement

if TYPE_CHECKING:
    from illada.model.megatron import DiffusionGPT
    from illada.train.parallel import Wrapped


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltRank:
    """Bytes of the first rank of a pipeline stage. `parameters` counts elements.

    `activations` is the most that autograd kept at a time during a step, `scratch` what else lived in it at its peak.
    """

    pipeline_stage: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    scratch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """All stages, and the parameters of the model that all ranks hold together."""

    ranks: tuple[BuiltRank, ...]
    parameters: int


def build(model: ModelConfig, training: Training, placement: TrainPlacement) -> Built:
    """Build every stage, run the step of each, and check that all ranks together hold the model.

    Raises:
        ValueError: the layout does not divide the model; a tensor is missing, in pieces that do not fit or held twice.
    """
    _prepare()
    parameters = _check_whole(model, training, placement)
    ranks = tuple(_measure(stage, model, training, placement) for stage in range(placement.pipeline))
    return Built(ranks=ranks, parameters=parameters)


def _prepare() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        ""  # no device is touched where there are some, and figures are everywhere equal
    )
    warnings.simplefilter("ignore")
    import torch.distributed as dist

    from illada.train.process import import_megatron, prepare

    prepare()
    import_megatron()
    dist.all_gather_object = _all_alike  # type: ignore[assignment]


def _all_alike(gathered: list[Any], mine: Any, group: object = None) -> None:
    """In place of `all_gather_object`, which needs real bytes: what Megatron gathers is the same on all ranks."""
    gathered[:] = [mine] * len(gathered)


@contextmanager
def _rank(rank: int, placement: TrainPlacement) -> Iterator[None]:
    """This process as one rank of the layout."""
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from illada.train.parallel import initialise_groups

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=placement.ranks)
    try:
        initialise_groups(placement)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _check_whole(model: ModelConfig, training: Training, placement: TrainPlacement) -> int:
    """All stages and tensor-parallel ranks against the released tensors, and their checkpoint; returns its elements."""
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.mapping import apply_factories
    from megatron.core.dist_checkpointing.validation import determine_global_metadata, validate_sharding_integrity
    from torch._subclasses.fake_tensor import FakeTensorMode

    from illada.model.megatron import build_modules
    from illada.model.weights import hf_tensor_names
    from illada.train.parallel import DTYPES
    from illada.train.state import model_state

    placement = placement.model_copy(update={"data": 1, "context": 1})
    held = dict.fromkeys(hf_tensor_names(model), 0)
    checkpoint = []
    for rank in range(placement.ranks):
        with _rank(rank, placement), FakeTensorMode():
            modules = build_modules(model, dtype=DTYPES[training.dtype])
            for module in modules:
                for name, elements in _parts(module, model):
                    held[name] += elements
            state = model_state(modules)
            apply_factories(state)
            checkpoint.append(determine_global_metadata(state)[0])
    for name, shape in hf_tensor_names(model).items():
        elements = math.prod(shape) * _copies(name, model, placement)
        if held[name] != elements:
            raise ValueError(f"{name}: all ranks together hold {held[name]} elements, {elements} are its copies'")
    with _rank(0, placement):
        try:
            validate_sharding_integrity(checkpoint)
        except CheckpointingException as error:
            raise ValueError(f"a checkpoint would not hold every tensor once: {error}") from error
    return sum({tensor.key: math.prod(tensor.global_shape) for rank in checkpoint for tensor in rank}.values())


def _parts(module: DiffusionGPT, model: ModelConfig) -> Iterator[tuple[str, int]]:
    """Name and elements of every part of a released tensor that the module holds, its shape checked."""
    from illada.model.weights import hf_tensor_names, hf_views

    shapes = hf_tensor_names(model)
    for name, view, dim in hf_views(module, model):
        shape = list(shapes[name])
        if dim is not None:
            shape[dim] //= module.tp_group.size()
        if view.numel() != math.prod(shape) or view.shape[-1] != shape[-1]:
            raise ValueError(f"{name}: a rank holds {list(view.shape)} of it, and should hold {shape}")
        yield name, view.numel()


def _copies(name: str, model: ModelConfig, placement: TrainPlacement) -> int:
    """How often all stages and tensor-parallel ranks together hold a released tensor: norms, tied embeddings."""
    from illada.model.weights import EMBEDDING, hf_tensor_names

    if len(hf_tensor_names(model)[name]) == 1:
        return placement.tensor
    return 2 if name == EMBEDDING and model.tied_embeddings and placement.pipeline > 1 else 1


def _measure(stage: int, model: ModelConfig, training: Training, placement: TrainPlacement) -> BuiltRank:
    """Build the first rank of a stage as the trainer does and run a step of it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from illada.model.megatron import build_modules
    from illada.train.fake import AsOnCuda, Live, Saved
    from illada.train.parallel import DTYPES, wrap

    with _rank(stage * (placement.ranks // placement.pipeline), placement), FakeTensorMode(), Live() as live:
        modules = build_modules(model, dtype=DTYPES[training.dtype])
        wrapped = wrap(modules, training)
        buffers = [buffer for chunk in wrapped.ddp for buffer in chunk.buffers]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        held = {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "weights": sum(buffer.param_data.untyped_storage().nbytes() for buffer in buffers),
            "gradients": sum(buffer.grad_data.untyped_storage().nbytes() for buffer in buffers),
        }
        wrapped.optimizer.init_state_fn(wrapped.optimizer.optimizer, wrapped.optimizer.config)
        before = live.peak = live.bytes
        saved = Saved(parameters)
        with AsOnCuda(training.window), saved:
            _step(wrapped, training, placement)
        return BuiltRank(
            pipeline_stage=stage,
            optimizer=before - held["weights"] - held["gradients"],
            activations=saved.peak,
            scratch=live.peak - before - saved.peak,
            **held,
        )


def _step(wrapped: Wrapped, training: Training, placement: TrainPlacement) -> None:
    """Forward and backward passes as the pipeline schedule orders them, of as many micro-batches as fill it."""
    import torch
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

    from illada.diffusion.masked import weighted_loss

    rows, window = placement.micro_batch, training.window
    in_a_step = training.global_batch // (placement.data * rows)
    wrapped.modules[0].config.finalize_model_grads_func = None  # it reduces gradients, in place
    part = window // placement.context
    fill = placement.pipeline + 1 if placement.virtual == 1 else 2 * placement.pipeline

    def forward(_: object, module: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        tokens = torch.zeros(rows, part, dtype=torch.int64)
        boundaries = torch.zeros(rows, 3, dtype=torch.int32)
        output = module(tokens, boundaries, tokens.clone(), torch.ones(rows, part, dtype=torch.bool))
        weight = torch.ones(rows * part)
        return output, lambda cross_entropy: (weighted_loss(cross_entropy, weight, rows * window), {})

    get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[iter(()) for _ in wrapped.ddp],
        model=wrapped.ddp,
        num_microbatches=min(in_a_step, fill),
        seq_length=window,
        micro_batch_size=rows,
        decoder_seq_length=window,
        forward_only=False,
    )
