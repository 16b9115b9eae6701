"""A Llama-shaped transformer with bidirectional attention: the mask predictor of a masked diffusion language model.

RMSNorm (arXiv 1910.07467), rotary positions (2104.09864), SwiGLU (2002.05202) and grouped-query attention (2305.13245),
no bias, as iLLaDA (2606.25331) puts them together. There is no causal mask and no key/value cache: given a sequence in
which some tokens are the mask token, the logits at a masked position are the distribution of *that* position's token.

Shipped unchanged inside every release, so it knows only `torch` and `transformers`.
Shapes: b batch, s sequence, h query heads, g key/value heads, d head width, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from .configuration_illada import ILLaDAConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    """Positions `start:stop` of `rows` attend to one another and to nothing else."""

    rows: Tensor | slice
    start: int
    stop: int
    visible: Tensor | None  # bool [rows, 1, 1, stop - start]: False where a key is padding


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: what norms and rotary tables are computed in."""
    return torch.promote_types(dtype, torch.float32)


class ILLaDARMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in float32 (or wider)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any [..., size], same shape and dtype out."""
        wide = x.to(_wide(x.dtype))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.to(wide.dtype)).to(x.dtype)


class ILLaDAAttention(nn.Module):
    """Bidirectional grouped-query attention with rotary positions."""

    def __init__(self, config: ILLaDAConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], segments: list[_Segment]) -> Tensor:
        """[b, s, D] -> [b, s, D]."""
        query = _rotate(self._heads(self.q_proj(x)), rotary)
        key = _rotate(self._heads(self.k_proj(x)), rotary).repeat_interleave(self.groups, dim=1)
        value = self._heads(self.v_proj(x)).repeat_interleave(self.groups, dim=1)
        return self.o_proj(_attend(query, key, value, segments).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, segments: list[_Segment]) -> Tensor:
    """Softmax attention inside each segment, [b, h, s, d] each. Never builds an s x s mask."""
    if len(segments) == 1:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=segments[0].visible)
    out = torch.empty_like(query)
    for part in segments:
        inside = (part.rows, slice(None), slice(part.start, part.stop))
        out[inside] = F.scaled_dot_product_attention(query[inside], key[inside], value[inside], attn_mask=part.visible)
    return out


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x_i, x_{i + d/2}) by position x frequency_i; x [b, h, s, d], tables [b or 1, 1, s, d]."""
    cos, sin = rotary
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class ILLaDAMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ILLaDAConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, s, D] -> [b, s, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ILLaDALayer(nn.Module):
    """Pre-norm residual block: attention, then SwiGLU."""

    def __init__(self, config: ILLaDAConfig) -> None:
        super().__init__()
        self.input_layernorm = ILLaDARMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = ILLaDAAttention(config)
        self.post_attention_layernorm = ILLaDARMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = ILLaDAMLP(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], segments: list[_Segment]) -> Tensor:
        """[b, s, D] -> [b, s, D]."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, segments)
        return x + self.mlp(self.post_attention_layernorm(x))


class ILLaDAPreTrainedModel(PreTrainedModel):
    """What `transformers` needs to know of both classes below."""

    config_class = ILLaDAConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar[list[str]] = ["ILLaDALayer"]
    _supports_sdpa = True


class ILLaDAModel(ILLaDAPreTrainedModel):
    """Embedding, layers and final norm: token ids to hidden states."""

    def __init__(self, config: ILLaDAConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ILLaDALayer(config) for _ in range(config.num_hidden_layers))
        self.norm = ILLaDARMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, boundaries: Tensor | None = None
    ) -> BaseModelOutput:
        """Hidden states [b, s, D] of token ids [b, s].

        Args:
            attention_mask: [b, s], 0 where a token is padding that nothing may attend to.
            boundaries: int [b, m] rows: 0, then ends of segments, ascending, the last one s. Segments are independent
                sequences, each counted from position 0; an end may come twice, so (0, s, s) is a row not split.

        Raises:
            ValueError: a mask or boundaries of another shape, or boundaries that do not cover the sequence.
        """
        x = self.embed_tokens(input_ids)
        b, s = input_ids.shape
        if attention_mask is not None and attention_mask.shape != (b, s):
            raise ValueError(
                f"attention_mask must have the shape {(b, s)} of input_ids, got {tuple(attention_mask.shape)}"
            )
        segments = _segments(b, s, attention_mask, boundaries)
        rotary = self._rotary(_positions(s, boundaries, x.device), x.dtype)
        for layer in self.layers:
            x = layer(x, rotary, segments)
        return BaseModelOutput(last_hidden_state=self.norm(x))

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables [b or 1, 1, s, d] for positions [b or 1, s]."""
        wide, d = _wide(dtype), self.config.head_dim
        exponent = torch.arange(0, d, 2, dtype=wide, device=positions.device) / d
        angle = positions[:, None, :, None].to(wide) * self.config.rope_parameters["rope_theta"] ** -exponent
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()


def _positions(s: int, boundaries: Tensor | None, device: torch.device) -> Tensor:
    """Position of every token in its own segment, [1, s] or [b, s]."""
    index = torch.arange(s, device=device)[None]
    if boundaries is None:
        return index
    starts = boundaries.to(device)
    segment = torch.searchsorted(starts[:, 1:].contiguous(), index.expand(len(starts), -1).contiguous(), right=True)
    return index - starts.gather(1, segment)


def _segments(b: int, s: int, attention_mask: Tensor | None, boundaries: Tensor | None) -> list[_Segment]:
    """The segments of a batch; rows that have the same one share it."""
    visible = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()[:, None, None, :]
    if boundaries is None:
        return [_Segment(rows=slice(None), start=0, stop=s, visible=_visible(visible, slice(None), 0, s))]
    if boundaries.dim() != 2 or len(boundaries) != b or boundaries.shape[1] < 2:
        raise ValueError(f"boundaries must have the shape {(b, 'm')}, got {tuple(boundaries.shape)}")
    alike: dict[tuple[int, int], list[int]] = {}
    for row, ends in enumerate(boundaries.tolist()):
        if ends[0] != 0 or ends[-1] != s or ends != sorted(ends):
            raise ValueError(f"boundaries of row {row} are {ends}, expected to ascend from 0 to {s}")
        for start, stop in pairwise(ends):
            if start < stop:
                alike.setdefault((start, stop), []).append(row)
    segments = []
    for (start, stop), members in alike.items():
        rows = slice(None) if len(members) == b else torch.tensor(members, device=boundaries.device)
        segments.append(_Segment(rows=rows, start=start, stop=stop, visible=_visible(visible, rows, start, stop)))
    return segments


def _visible(visible: Tensor | None, rows: Tensor | slice, start: int, stop: int) -> Tensor | None:
    """The key mask of one segment; a segment that is all padding sees itself, so that no softmax is empty."""
    if visible is None:
        return None
    part = visible[rows, :, :, start:stop]
    return part | ~part.any(-1, keepdim=True)


class ILLaDAForCausalLM(ILLaDAPreTrainedModel):
    """The mask predictor: hidden states to vocabulary logits. (The name is iLLaDA's; nothing here is causal.)"""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ILLaDAConfig) -> None:
        super().__init__(config)
        self.model = ILLaDAModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, boundaries: Tensor | None = None
    ) -> MaskedLMOutput:
        """Logits [b, s, V] of token ids [b, s]; arguments as `ILLaDAModel.forward`."""
        hidden = self.model(input_ids, attention_mask=attention_mask, boundaries=boundaries).last_hidden_state
        return MaskedLMOutput(logits=self.lm_head(hidden))


__all__ = ["ILLaDAForCausalLM", "ILLaDAModel", "ILLaDAPreTrainedModel"]
