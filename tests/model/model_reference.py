"""An independent float64 implementation of the model, from weights under their released names, and shared test data.

Written differently on purpose: dense attention with an s x s mask, rotary positions as complex numbers, key and value
heads repeated, and the loss from all logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from illada.config import ModelConfig

SIZES = {
    "layers": 2,
    "hidden_size": 32,
    "heads": 4,
    "kv_heads": 2,
    "ffn_size": 48,
    "vocab_size": 64,
    "max_positions": 32,
    "rope_theta": 10_000.0,
    "init_std": 0.2,  # large, so that attention is far from uniform
}
LENGTH = 16
BOUNDARIES = [[0, 16, 16, 16, 16], [0, 5, 16, 16, 16], [0, 16, 16, 16, 16], [0, 2, 9, 15, 16]]


def config(**changes: object) -> ModelConfig:
    """A tiny model."""
    return ModelConfig.model_validate({**SIZES, **changes})


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(corrupted tokens, boundaries, clean tokens, mask) of four windows, one in two segments and one in four."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(7, SIZES["vocab_size"], (len(BOUNDARIES), LENGTH), generator=generator)
    mask = torch.rand(clean.shape, generator=generator) < 0.5
    return clean.masked_fill(mask, 5), torch.tensor(BOUNDARIES, dtype=torch.int32), clean, mask


PERTURBED = ((1, slice(0, 5)), (3, slice(15, 16)))
"""Row and positions of the segments that `perturbed` changes: a first one, and a last one of a single token."""


def perturbed(tokens: Tensor) -> Tensor:
    """Other tokens in those segments of `batch()`."""
    other = tokens.clone()
    for row, part in PERTURBED:
        other[row, part] = (other[row, part] + 1) % SIZES["vocab_size"]
    return other


def reference_logits(model: ModelConfig, weights: Mapping[str, Tensor], tokens: Tensor, boundaries: Tensor) -> Tensor:
    """float64 logits [b, s, V]."""
    rows, length = tokens.shape
    index = torch.arange(length)
    segment = (index >= boundaries[:, 1:, None]).sum(1)
    position = index - torch.stack([row[own] for row, own in zip(boundaries, segment, strict=True)])
    visible = segment[:, :, None] == segment[:, None, :]

    half = model.head_dim // 2
    frequency = model.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(rows, length, half, dtype=torch.float64), position[..., None] * frequency)

    def heads(x: Tensor, name: str, rotated: bool) -> Tensor:
        x = (x @ weights[name].T).view(rows, length, -1, model.head_dim)
        if rotated:
            z = torch.complex(x[..., :half], x[..., half:]) * turn[:, :, None]
            x = torch.cat((z.real, z.imag), dim=-1)
        return x.repeat_interleave(model.heads // x.shape[2], dim=2)

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + model.norm_eps).sqrt() * weights[name]

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(model.layers):
        name = f"model.layers.{layer}."
        y = norm(x, name + "input_layernorm.weight")
        q = heads(y, name + "self_attn.q_proj.weight", True)
        k = heads(y, name + "self_attn.k_proj.weight", True)
        v = heads(y, name + "self_attn.v_proj.weight", False)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / model.head_dim**0.5
        chances = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", chances, v).reshape(rows, length, -1)
        x = x + mixed @ weights[name + "self_attn.o_proj.weight"].T
        y = norm(x, name + "post_attention_layernorm.weight")
        gate, up = y @ weights[name + "mlp.gate_proj.weight"].T, y @ weights[name + "mlp.up_proj.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ weights[name + "mlp.down_proj.weight"].T
    output = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ output.T


def reference_cross_entropy(
    model: ModelConfig, weights: Mapping[str, Tensor], tokens: Tensor, boundaries: Tensor, clean: Tensor, mask: Tensor
) -> Tensor:
    """float64 cross-entropy of the masked positions, row-major."""
    logits = reference_logits(model, weights, tokens, boundaries)
    return -logits.log_softmax(-1).gather(-1, clean[..., None])[..., 0][mask]


def wiggled(tensor: Tensor, seed: int = 0) -> Tensor:
    """The tensor with noise added, so that norm weights are not all ones."""
    return tensor + 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
