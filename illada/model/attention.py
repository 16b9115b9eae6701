"""Bidirectional attention within segments, with rotary positions that restart at each segment.

A window holds one segment, or two when it was cut at random (iLLaDA, arXiv 2606.25331: variable-length attention and
random length). Segments attend within themselves only. Nothing of size window x window is ever made: on CUDA one
variable-length flash call takes all segments of a batch; elsewhere whole rows go through one batched SDPA call and
cut rows segment by segment.

Rotary positions (arXiv 2104.09864) use the rotate-half convention of Llama, in float32. They are applied here and not
by Megatron because Megatron's positions run over the window.

Shapes: s window, b rows, h query heads, g key/value heads (both of this tensor-parallel rank), d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10: segments go through SDPA on CUDA too
    varlen_attn = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Where the segments of a micro-batch lie, made once a forward pass and shared by all layers.

    Travels through Megatron as its `packed_seq_params`, the argument it hands to core attention untouched (unless
    `qkv_format` is "thd").

    Attributes:
        splits: [b] end of each row's first segment; equal to the window where the row is one segment.
        cos, sin: float32 [s, b, 1, d / 2], of position within the segment.
        cumulative: int32 [2 b + 1] ends of all segments in row-major order (some may be empty); None on the CPU.
    """

    qkv_format: ClassVar[str] = "sbhd"

    splits: tuple[int, ...]
    cos: Tensor
    sin: Tensor
    cumulative: Tensor | None

    @classmethod
    def of(cls, boundaries: Tensor, length: int, head_dim: int, theta: float, dtype: torch.dtype) -> Segments:
        """Read `boundaries` int32 [b, 3] = (0, split, length) per row; `dtype` is the one attention will run in."""
        rows, device = boundaries.shape[0], boundaries.device
        assert boundaries.shape == (rows, 3), f"boundaries must be [rows, 3], got {tuple(boundaries.shape)}"
        steps = torch.arange(length, device=device)
        split = boundaries[:, 1:2]
        position = torch.where(steps < split, steps, steps - split)
        frequency = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
        angle = position.t()[:, :, None, None].float() * frequency
        fused = varlen_attn is not None and boundaries.is_cuda and dtype in (torch.bfloat16, torch.float16)
        return cls(
            splits=() if fused else tuple(boundaries[:, 1].tolist()),
            cos=angle.cos(),
            sin=angle.sin(),
            cumulative=cumulative_lengths(boundaries, length) if fused else None,
        )


class SegmentAttention(MegatronModule):
    """Core attention for Megatron's layer spec: rotates queries and keys, then attends within segments."""

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        super().__init__(config=config)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, packed_seq_params: Segments, **_: Any
    ) -> Tensor:
        """query [s, b, h, d], key and value [s, b, g, d] -> [s, b, h * d]."""
        segments = packed_seq_params
        query, key = rotate(query, segments), rotate(key, segments)
        if segments.cumulative is not None:
            return attend_packed(query, key, value, segments.cumulative)
        return attend(query, key, value, segments.splits)


def rotate(x: Tensor, segments: Segments) -> Tensor:
    """Rotate x [s, b, *, d] by the positions of `segments`, in float32; the result has x's dtype."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = segments.cos, segments.sin
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


def attend(query: Tensor, key: Tensor, value: Tensor, splits: tuple[int, ...]) -> Tensor:
    """Attention by SDPA: uncut rows in one call, cut rows one call a segment. Shapes as `SegmentAttention.forward`."""
    length, rows = query.shape[:2]
    assert len(splits) == rows and all(0 < split <= length for split in splits), f"bad splits {splits} of {length}"
    operands = [x.permute(1, 2, 0, 3) for x in (query, key, value)]  # [b, heads, s, d]
    whole = [row for row, split in enumerate(splits) if split == length]
    cut = [row for row, split in enumerate(splits) if split < length]
    if not cut:
        return _merge_heads(_sdpa(*operands))
    outputs = [_sdpa(*(x[whole] for x in operands))] if whole else []
    for row in cut:
        pieces = [
            _sdpa(*(x[row : row + 1, :, start:end] for x in operands))
            for start, end in ((0, splits[row]), (splits[row], length))
        ]
        outputs.append(torch.cat(pieces, dim=2))
    order = torch.empty(rows, dtype=torch.int64, device=query.device)
    order[torch.tensor(whole + cut, device=query.device)] = torch.arange(rows, device=query.device)
    return _merge_heads(torch.cat(outputs).index_select(0, order))


def attend_packed(query: Tensor, key: Tensor, value: Tensor, cumulative: Tensor) -> Tensor:
    """Attention by one variable-length flash call. Shapes as `SegmentAttention.forward`."""
    length, rows = query.shape[:2]
    q, k, v = (x.transpose(0, 1).reshape(rows * length, *x.shape[2:]) for x in (query, key, value))
    gqa = query.shape[2] != key.shape[2]
    output = varlen_attn(q, k, v, cumulative, cumulative, length, length, enable_gqa=gqa)
    assert isinstance(output, Tensor)  # and not a pair: no log-sum-exp was asked for
    return output.view(rows, length, -1).transpose(0, 1).contiguous()


def cumulative_lengths(boundaries: Tensor, length: int) -> Tensor:
    """Boundaries int32 [b, 3] -> int32 [2 b + 1]: 0, then the end of every segment, rows laid one after another."""
    offsets = torch.arange(boundaries.shape[0], device=boundaries.device, dtype=torch.int32) * length
    ends = (boundaries[:, 1:].int() + offsets[:, None]).flatten()
    return torch.nn.functional.pad(ends, (1, 0))


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, enable_gqa=query.shape[1] != key.shape[1])


def _merge_heads(output: Tensor) -> Tensor:
    rows, heads, length, width = output.shape
    return output.permute(2, 0, 1, 3).reshape(length, rows, heads * width)
