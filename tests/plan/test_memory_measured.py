"""The activation estimate against what autograd really keeps for a layer of the Megatron module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from illada.config import ModelConfig
from illada.train.memory import layer_activations

ROWS, WINDOW = 1, 256


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    from illada.model.cpu import install_cpu_shim

    install_cpu_shim()
    import torch.distributed as dist
    from megatron.core import parallel_state

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    yield
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


@pytest.mark.parametrize(("heads", "kv_heads", "ffn"), [(8, 2, 448), (4, 4, 128)])
def test_layer_keeps_what_the_plan_says(one_rank: None, heads: int, kv_heads: int, ffn: int) -> None:
    models = [
        ModelConfig(
            layers=layers,
            hidden_size=128,
            heads=heads,
            kv_heads=kv_heads,
            ffn_size=ffn,
            vocab_size=512,
            max_positions=WINDOW,
        )
        for layers in (1, 3)
    ]
    few, many = (_kept_bytes(model) for model in models)
    a_layer = (many - few) / 2 / (4 * ROWS * WINDOW)  # float32 elements a token
    norms_unfused_on_cpu = 2 * 128
    statistics = heads + 2  # log-sum-exp of attention, root mean square of both norms
    assert a_layer == pytest.approx(layer_activations(models[0], 1) + norms_unfused_on_cpu + statistics, rel=0.005)


def _kept_bytes(model: ModelConfig) -> int:
    """Bytes of all storages that autograd saved in a forward pass, the parameters' own apart."""
    import torch

    from illada.model.megatron import build_module

    module = build_module(model, dtype=torch.float32)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(8, 512, (ROWS, WINDOW), generator=generator)
    boundaries = torch.tensor([[0, WINDOW, WINDOW]] * ROWS, dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(tokens, boundaries, tokens, torch.rand(ROWS, WINDOW, generator=generator) < 0.5)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
