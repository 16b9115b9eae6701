"""One step of the tiny model under a layout, in processes of their own, gathered back to released names.

Processes come from a fork server that has imported Megatron once, so a layout costs a fraction of a second.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as torch_multiprocessing
from model_reference import batch, config, perturbed
from torch import Tensor

from illada.config import ModelConfig

PRELOAD = ["megatron.core", "megatron.core.pipeline_parallel.schedules", "illada.model.megatron", "model_reference"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the ranks of a layout saw together; `losses` [b, s] are zero where nothing is masked.

    `perturbed` are the logits of other tokens in some segments, see `model_reference.perturbed`.
    """

    losses: Tensor
    logits: Tensor
    perturbed: Tensor
    gradients: dict[str, Tensor]
    gradient_norm: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Ranks of each kind of parallelism."""

    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    context: int = 1

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.context


def run_layout(folder: Path, layout: Layout, **changes: object) -> Step:
    """Forward and backward of `batch()` in two micro-batches under a layout."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    arguments = (layout, folder, config(**changes))
    torch_multiprocessing.start_processes(_rank, arguments, nprocs=layout.ranks, start_method="forkserver")
    return _gather([torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(layout.ranks)])


def _rank(rank: int, layout: Layout, folder: Path, model: ModelConfig) -> None:
    from megatron.core import parallel_state

    from illada.model import head, megatron
    from illada.model.cpu import install_cpu_shim
    from illada.model.weights import hf_views, initial_tensor, load_hf_weights

    torch.set_num_threads(1)
    install_cpu_shim()
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=layout.ranks)
    parallel_state.initialize_model_parallel(
        layout.tensor,
        layout.pipeline,
        layout.virtual if layout.virtual > 1 else None,
        context_parallel_size=layout.context,
    )
    # several tiles, most of them computed again
    megatron.tiled_cross_entropy = functools.partial(head.tiled_cross_entropy, tile_logits=500, kept_bytes=4000)
    modules = megatron.build_modules(model, dtype=torch.float32)
    for module in modules:
        load_hf_weights(module, model, lambda name: initial_tensor(model, name, seed=0))
    tokens = batch()[0]
    losses, logits = _run(modules, tokens, predict=True), _run(modules, tokens, predict=False)
    other = _run(modules, perturbed(tokens), predict=False)
    norm = _reduce_gradients(modules)
    gradients = []
    for module in modules:
        for name, view, dim in hf_views(module, model, lambda parameter: parameter.grad):
            flat = view.reshape(-1, view.shape[-1]) if view.dim() > 1 else view
            gradients.append((name, flat.contiguous(), -1 if dim is None else dim))
    found = {
        "losses": losses,
        "logits": logits,
        "perturbed": other,
        "gradients": gradients,
        "norm": norm,
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
        "tensor": parallel_state.get_tensor_model_parallel_rank(),
        "context": parallel_state.get_context_parallel_rank(),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _run(modules: list[torch.nn.Module], tokens: Tensor, predict: bool) -> Tensor:
    """Losses (with gradients) or logits through Megatron's own schedule, [b, s, ...]; nothing but on the last stage.

    What is not masked, or is in the slice of another context-parallel rank, is zero.
    """
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

    from illada.model.megatron import context_slice

    _, boundaries, clean, mask = batch()
    mine = context_slice(tokens.shape[1])

    def step(halves: Iterator[slice], part: torch.nn.Module) -> Any:
        half = next(halves)
        wanted = (clean[half, mine], mask[half, mine]) if predict else ()

        def result(x: Tensor) -> tuple[Tensor, Tensor]:
            whole = torch.zeros(2, tokens.shape[1], *x.shape[1 if predict else 2 :])
            if predict:
                whole[:, mine][mask[half, mine]] = x.detach()
            else:
                whole[:, mine] = x.detach()
            # by which Megatron divides, and multiplies, each loss
            return x.sum() * 2 / parallel_state.get_context_parallel_world_size(), whole

        return part(tokens[half, mine], boundaries[half], *wanted), result

    results = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=[iter([slice(0, 2), slice(2, 4)]) for _ in modules],
        model=modules,
        num_microbatches=2,
        seq_length=tokens.shape[1],
        micro_batch_size=2,
        forward_only=not predict,
    )
    return torch.cat(results) if results else torch.empty(0)


def _reduce_gradients(modules: list[torch.nn.Module]) -> float:
    """What Megatron's `finalize_model_grads` does, and its norm of the gradient; checks that tied weights are equal."""
    from megatron.core import parallel_state
    from megatron.core.optimizer.clip_grads import get_grad_norm_fp32
    from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    counted = []
    for parameter in (parameter for module in modules for parameter in module.parameters()):
        dist.all_reduce(parameter.grad, group=parallel_state.get_context_parallel_group())
        if getattr(parameter, "sequence_parallel", False):
            dist.all_reduce(parameter.grad, group=parallel_state.get_tensor_model_parallel_group())
        if getattr(parameter, "shared_embedding", False):
            group = parallel_state.get_embedding_group()
            both = [torch.empty_like(parameter) for _ in range(2)]
            dist.all_gather(both, parameter.detach(), group=group)
            assert torch.equal(*both), "tied weights must be equal at both ends of the pipeline"
            dist.all_reduce(parameter.grad, group=group)
        if param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter):
            counted.append(parameter.grad)
    return float(get_grad_norm_fp32(counted, grad_stats_parallel_group=parallel_state.get_model_parallel_group()))


def _gather(ranks: list[dict[str, Any]]) -> Step:
    """Tensor-parallel ranks of a stage are adjacent in Megatron's order, so shards come in order."""
    shards: dict[str, dict[int, list[Tensor]]] = {}
    dims: dict[str, int] = {}
    for rank in ranks:
        for name, gradient, dim in rank["gradients"] if rank["context"] == 0 else ():
            shards.setdefault(name, {}).setdefault(rank["stage"], []).append(gradient)
            dims[name] = dim
    gradients = {}
    for name, stages in shards.items():
        whole = []
        for parts in stages.values():
            if dims[name] < 0:
                assert all(torch.equal(part, parts[0]) for part in parts), f"{name}: replicas disagree"
            whole.append(parts[0] if dims[name] < 0 else torch.cat(parts, dims[name]))
        assert all(torch.equal(each, whole[0]) for each in whole), f"{name}: stages disagree"
        gradients[name] = whole[0]
    last = [rank for rank in ranks if rank["stage"] == ranks[-1]["stage"] and rank["tensor"] == 0]
    assert len({rank["norm"] for rank in ranks}) == 1, "ranks disagree about the gradient norm"
    return Step(
        losses=sum(rank["losses"] for rank in last),
        logits=sum(rank["logits"] for rank in last),
        perturbed=sum(rank["perturbed"] for rank in last),
        gradients=gradients,
        gradient_norm=ranks[0]["norm"],
    )
