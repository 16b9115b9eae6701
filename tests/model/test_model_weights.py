"""Names, shapes and initial values of the released tensors; sharding is tested with the layouts."""

from __future__ import annotations

import math

import pytest
import torch
from model_reference import config

from illada.model.weights import hf_tensor_names, initial_tensor


def test_names_and_shapes() -> None:
    names = hf_tensor_names(config(layers=1, tied_embeddings=False))
    assert names == {
        "model.embed_tokens.weight": (64, 32),
        "model.layers.0.input_layernorm.weight": (32,),
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
        "model.layers.0.self_attn.k_proj.weight": (16, 32),
        "model.layers.0.self_attn.v_proj.weight": (16, 32),
        "model.layers.0.self_attn.o_proj.weight": (32, 32),
        "model.layers.0.post_attention_layernorm.weight": (32,),
        "model.layers.0.mlp.gate_proj.weight": (48, 32),
        "model.layers.0.mlp.up_proj.weight": (48, 32),
        "model.layers.0.mlp.down_proj.weight": (32, 48),
        "model.norm.weight": (32,),
        "lm_head.weight": (64, 32),
    }
    assert "lm_head.weight" not in hf_tensor_names(config())


def test_initial_values_are_a_function_of_name_and_seed() -> None:
    model = config()
    for name, shape in hf_tensor_names(model).items():
        tensor = initial_tensor(model, name, seed=3)
        torch.manual_seed(99)  # no part in it
        assert tensor.shape == shape and torch.equal(tensor, initial_tensor(model, name, seed=3))
        assert tensor.dim() == 1 or not torch.equal(tensor, initial_tensor(model, name, seed=4))
    q, other = (initial_tensor(model, f"model.layers.{layer}.self_attn.q_proj.weight", seed=3) for layer in (0, 1))
    assert not torch.equal(q, other)


def test_initial_scale() -> None:
    model = config(layers=8, hidden_size=256, ffn_size=512, init_std=0.02)
    for part, std in (
        ("self_attn.q_proj", 0.02),
        ("mlp.gate_proj", 0.02),
        ("self_attn.o_proj", 0.02 / 4),
        ("mlp.down_proj", 0.02 / 4),
    ):
        values = initial_tensor(model, f"model.layers.5.{part}.weight", seed=0)
        # the sample deviation of n normal numbers is std (1 +- 1 / sqrt(2 n))
        assert abs(float(values.std()) / std - 1) < 5 / math.sqrt(2 * values.numel())
        assert abs(float(values.mean())) < 5 * std / math.sqrt(values.numel())
    assert torch.equal(initial_tensor(model, "model.layers.5.input_layernorm.weight", seed=0), torch.ones(256))


def test_initial_values_do_not_drift_between_versions() -> None:
    """Changed initial values are another experiment: they must not come with an upgrade unnoticed."""
    values = initial_tensor(config(), "model.layers.1.mlp.up_proj.weight", seed=0)
    expected = [0.08044, 0.011907, -0.021626, 0.284348, 0.09495, 0.314587]
    assert values[0, :3].tolist() + values[-1, -3:].tolist() == pytest.approx(expected, abs=1e-6)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        initial_tensor(config(), "lm_head.weight", seed=0)
