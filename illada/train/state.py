"""Model and optimizer from a checkpoint; collective, on all ranks. How they get into one: see `saver` and `pieces`.

The state is Megatron's own (`sharded_state_dict`), with the optimizer in its `fully_reshardable` form, so what was
saved under one layout loads under another, optimizer included. Two gaps of megatron-core 0.16 with torch's AdamW are
closed here: it asserts on an optimizer that has not stepped, and loses the update count in each parameter's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from illada.model.megatron import DiffusionGPT
from illada.train.checkpoint import Stored
from illada.train.shards import LoadCommon, LoadShards

_RESHARDABLE = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": False,
}


def load_weights(stored: Stored, modules: Sequence[DiffusionGPT]) -> None:
    """Fill a rank's modules, of any layout and type, from the weights of a checkpoint; call before wrapping them."""
    _fill(modules, _load({"model": model_state(modules)}, stored))


def load(stored: Stored, modules: Sequence[DiffusionGPT], optimizer: DistributedOptimizer) -> None:
    """Fill a rank's modules and its optimizer from a checkpoint saved under any layout."""
    require_state(optimizer)
    inner = optimizer.optimizer
    wanted = {"model": model_state(modules)}
    wanted["optimizer"] = optimizer.sharded_state_dict(wanted["model"], is_loading=True, metadata=_RESHARDABLE)
    loaded = _load(wanted, stored)
    _fill(modules, loaded)
    state = loaded["optimizer"]
    updates = {group["step"] for group in state["optimizer"]["param_groups"]}
    parameters = state.pop("param_state")
    optimizer.load_state_dict(state)
    for entry in inner.state.values():
        entry.pop("step")  # absent from the stored tensors, and Megatron copies every key that is present
    optimizer.load_parameter_state_from_fully_reshardable(parameters)
    (made,) = updates
    _set_updates(inner, made)


def require_state(optimizer: DistributedOptimizer) -> None:
    """Give an optimizer that has made no update its state, which is zeros."""
    inner = optimizer.optimizer
    if not inner.state:
        optimizer.init_state_fn(inner, optimizer.config)
        _set_updates(inner, 0.0)


def _load(wanted: dict[str, Any], stored: Stored) -> dict[str, Any]:
    folder = str(stored.local())
    loaded: dict[str, Any] = dist_checkpointing.load(wanted, folder, LoadShards(stored.fetch), LoadCommon())
    return loaded


def model_state(modules: Sequence[DiffusionGPT]) -> dict[str, Any]:
    """Sharded weights by module and name, without the empty placeholders Megatron keeps for other layer classes."""
    return {
        str(number): {name: value for name, value in state.items() if not name.endswith("_extra_state")}
        for number, state in enumerate(module.sharded_state_dict() for module in modules)
    }


def _fill(modules: Sequence[DiffusionGPT], loaded: Mapping[str, Any]) -> None:
    for number, module in enumerate(modules):
        missing, unexpected = module.load_state_dict(loaded["model"][str(number)], strict=False)
        wrong = [name for name in missing if not name.endswith("_extra_state")] + list(unexpected)
        assert not wrong, f"names in the sharded state and in the module differ: {wrong}"


def _set_updates(inner: torch.optim.Optimizer, updates: float) -> None:
    """AdamW's update count, a tensor of its own for each parameter, as AdamW increments it in place."""
    for parameter, entry in inner.state.items():
        entry["step"] = torch.tensor(float(updates), device=parameter.device)  # where the fused update looks for it
