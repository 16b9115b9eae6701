"""Parameter counts against the published figures and a built module; operations against a counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_reference import batch, config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from illada.config import ModelConfig, Objective
from illada.model import attention, products
from illada.model.arithmetic import mean_attended, mean_masked, parameters, token_flops, training_flops
from illada.model.megatron import build_module
from illada.model.weights import hf_tensor_names, initial_tensor, load_hf_weights

ILLADA_8B = ModelConfig(
    layers=32, hidden_size=4096, heads=32, kv_heads=8, ffn_size=14336, vocab_size=155136, max_positions=8192
)
LLADA_8B = ModelConfig(
    layers=32,
    hidden_size=4096,
    heads=32,
    kv_heads=32,
    ffn_size=12288,
    vocab_size=126464,
    max_positions=4096,
    tied_embeddings=False,
)


@pytest.mark.parametrize(
    ("model", "total", "non_embedding"), [(ILLADA_8B, 7.62, 6.98), (LLADA_8B, 8.02, 6.98)], ids=["iLLaDA", "LLaDA"]
)
def test_published_parameter_counts(model: ModelConfig, total: float, non_embedding: float) -> None:
    count = parameters(model)
    assert (round(count.total / 1e9, 2), round(count.non_embedding / 1e9, 2)) == (total, non_embedding)


@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": False}, {"kv_heads": 4, "layers": 3}], ids=str)
def test_count_equals_the_tensors(changes: dict[str, object], one_rank: None) -> None:
    model = config(**changes)
    count = parameters(model)
    assert count.total == sum(np.prod(shape) for shape in hf_tensor_names(model).values())
    assert count.total == sum(p.numel() for p in build_module(model, dtype=torch.float32).parameters())


@pytest.mark.parametrize("training", [False, True])
def test_operations_equal_a_count_of_matrix_products(
    training: bool, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "on_cpu", lambda query: False)  # ours there computes scores again for the gradient
    monkeypatch.setattr(products, "on_cpu", lambda tensor: False)  # the counter knows torch's products, not oneDNN's
    model = config()
    module = build_module(model, dtype=torch.float32)
    load_hf_weights(module, model, lambda name: initial_tensor(model, name, seed=0))
    tokens, boundaries, clean, mask = batch()
    attended = float(boundaries.diff(dim=1).square().sum() / tokens.numel())
    flops = token_flops(model, attended=attended, masked=float(mask.float().mean()))
    # attention as plain matrix products: the counter does not know the fused CPU kernel
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = module(tokens, boundaries, clean, mask)
        if training:
            losses.sum().backward()
    expected = flops.training if training else flops.forward
    assert counter.get_total_flops() == pytest.approx(expected * tokens.numel(), rel=1e-9)


def test_mean_attended_equals_enumeration() -> None:
    length = 9
    split = np.mean([(k**2 + (length - k) ** 2) / length for k in range(1, length)])
    assert mean_attended(length, 0.0) == length
    assert mean_attended(length, 1.0) == pytest.approx(split)
    assert mean_attended(length, 0.3) == pytest.approx(0.7 * length + 0.3 * split)


def test_causal_operations_equal_enumeration() -> None:
    """The head on every position; position k of a segment attends to k."""
    model, length = config(attention="causal"), 9
    pieces = [[k, length - k] for k in range(1, length)]
    split = np.mean([sum(n * (n + 1) / 2 for n in lengths) / length for lengths in pieces])
    attended = 0.7 * (length + 1) / 2 + 0.3 * float(split)
    flops = training_flops(model, window=length, objective=Objective(kind="autoregressive"))
    assert flops == pytest.approx(token_flops(model, attended=attended, masked=1.0).training)


def test_training_operations_near_six_per_parameter_and_token() -> None:
    """The usual rule counts the head on all positions and no attention; ours halves one and adds the other."""
    window, objective = 8192, Objective()
    flops = training_flops(ILLADA_8B, window=window, objective=objective)
    count = parameters(ILLADA_8B)
    head = 6 * count.embedding * mean_masked(objective.eps)
    attention = 12 * 32 * 4096 * mean_attended(window, objective.random_split)
    assert flops == pytest.approx(6 * (count.attention + count.ffn) + head + attention)
    assert 1.0 < flops / (6 * count.total) < 1.4
