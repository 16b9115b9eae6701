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
from model_reference import batch, config
from torch import Tensor

from illada.config import ModelConfig

PRELOAD = ["megatron.core", "megatron.core.pipeline_parallel.schedules", "illada.model.megatron", "model_reference"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the ranks of a layout saw together."""

    losses: Tensor
    logits: Tensor
    gradients: dict[str, Tensor]
    gradient_norm: float


def run_layout(folder: Path, tensor: int, pipeline: int, **changes: object) -> Step:
    """Forward and backward of `batch()` in two micro-batches under tensor x pipeline ranks."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    arguments = (tensor, pipeline, folder, config(**changes))
    ranks = tensor * pipeline
    torch_multiprocessing.start_processes(_rank, arguments, nprocs=ranks, start_method="forkserver")
    return _gather([torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)])


def _rank(rank: int, tensor: int, pipeline: int, folder: Path, model: ModelConfig) -> None:
    from megatron.core import parallel_state

    from illada.model import head, megatron
    from illada.model.cpu import install_cpu_shim
    from illada.model.weights import hf_views, initial_tensor, load_hf_weights

    torch.set_num_threads(1)
    install_cpu_shim()
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=tensor * pipeline)
    parallel_state.initialize_model_parallel(tensor, pipeline)
    # chunks of five positions, so that every rank makes the same collective calls several times
    chunk_logits = 5 * model.vocab_size // tensor
    megatron.chunked_cross_entropy = functools.partial(head.chunked_cross_entropy, chunk_logits=chunk_logits)
    module = megatron.build_module(model, dtype=torch.float32)
    load_hf_weights(module, model, lambda name: initial_tensor(model, name, seed=0))
    found = {
        "losses": _run(module, predict=True),
        "logits": _run(module, predict=False),
        "gradients": [],
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
    }
    _join_tied(module)
    found["norm"] = _gradient_norm(module)
    for name, view, dim in hf_views(module, model, lambda parameter: parameter.grad):
        flat = view.reshape(-1, view.shape[-1]) if view.dim() > 1 else view
        found["gradients"].append((name, flat.contiguous(), -1 if dim is None else dim))
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _run(module: torch.nn.Module, predict: bool) -> Tensor:
    """Losses (with gradients) or logits through Megatron's own schedule; empty but on the last stage."""
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

    tokens, boundaries, clean, mask = batch()

    def step(halves: Iterator[slice], part: torch.nn.Module) -> Any:
        half = next(halves)
        wanted = (clean[half], mask[half]) if predict else ()
        return part(tokens[half], boundaries[half], *wanted), lambda x: (2 * x.sum(), x.detach())

    results = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter([slice(0, 2), slice(2, 4)]),
        model=[module],
        num_microbatches=2,  # by which Megatron divides each loss: hence the 2 above
        seq_length=tokens.shape[1],
        micro_batch_size=2,
        forward_only=not predict,
    )
    return torch.cat(results) if results else torch.empty(0)


def _join_tied(module: torch.nn.Module) -> None:
    """What Megatron's `finalize_model_grads` does for the two ends of a tied embedding; checks they began equal."""
    from megatron.core import parallel_state

    for parameter in module.parameters():
        if getattr(parameter, "shared_embedding", False):
            group = parallel_state.get_embedding_group()
            both = [torch.empty_like(parameter) for _ in range(2)]
            dist.all_gather(both, parameter.detach(), group=group)
            assert torch.equal(*both), "tied weights must be equal at both ends of the pipeline"
            dist.all_reduce(parameter.grad, group=group)


def _gradient_norm(module: torch.nn.Module) -> float:
    """Megatron's own, as its optimizers take it before clipping."""
    from megatron.core import parallel_state
    from megatron.core.optimizer.clip_grads import get_grad_norm_fp32
    from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    counted = [
        p.grad for p in module.parameters() if param_is_not_shared(p) and param_is_not_tensor_parallel_duplicate(p)
    ]
    return float(get_grad_norm_fp32(counted, grad_stats_parallel_group=parallel_state.get_model_parallel_group()))


def _gather(ranks: list[dict[str, Any]]) -> Step:
    """Tensor-parallel ranks of a stage are adjacent in Megatron's order, so shards come in order."""
    shards: dict[str, dict[int, list[Tensor]]] = {}
    dims: dict[str, int] = {}
    for rank in ranks:
        for name, gradient, dim in rank["gradients"]:
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
    last = ranks[-1]
    assert len({rank["norm"] for rank in ranks}) == 1, "ranks disagree about the gradient norm"
    return Step(losses=last["losses"], logits=last["logits"], gradients=gradients, gradient_norm=last["norm"])
