"""Attention within segments, bidirectional or causal, with rotary positions that restart at each segment.

A window holds one or more segments: two when it was cut at random (iLLaDA, arXiv 2606.25331: variable-length attention
and random length). Segments attend within themselves only. Nothing of size window x window is ever made: on CUDA one
variable-length flash call takes all segments of a batch; elsewhere whole rows go through one call and cut rows segment
by segment, of SDPA or, on the CPU, of `illada.model.attention_cpu`.

Under context parallelism a rank has an equal slice of every window. Its queries attend to the keys and values of the
whole window, which all ranks of the group gather (Llama 3, arXiv 2407.21783, 3.3.2): with grouped queries these are
small, and as nothing is causal all slices of a segment cost the same. Positions are those of the window. Causal
attention is refused there (`illada.model.megatron.build_modules`).

Rotary positions (arXiv 2104.09864) use the rotate-half convention of Llama, in float32. They are applied here and not
by Megatron because Megatron's positions run over the window.

Shapes: w window, s this rank's slice of it, b rows, h query heads, g key/value heads (both of this tensor-parallel
rank), d head width, m boundaries of a row.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from illada.model.attention_cpu import attend_blocks
from illada.model.products import on_cpu

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10: segments go through SDPA on CUDA too
    varlen_attn = None  # type: ignore[assignment]

Span = tuple[int, int, int, int]
"""First and end of a segment's queries in this rank's slice, first and end of its keys in the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Ends of all segments in row-major order, int32 [b (m - 1) + 1]; some may be empty.

    Attributes:
        query, key: of queries among those of this rank, and of keys.
        slice, window: tokens of a row.
    """

    query: Tensor
    key: Tensor
    slice: int
    window: int

    @classmethod
    def of(cls, boundaries: Tensor, window: int, first: int, end: int) -> Packed:
        """Those of rows laid one after another, of which this rank has the queries `first` to `end`."""
        ends = boundaries[:, 1:].int()
        rows = torch.arange(len(ends), device=ends.device, dtype=torch.int32)[:, None]
        query, key = ends.clamp(first, end) - first + rows * (end - first), ends + rows * window
        pad = torch.nn.functional.pad
        return cls(query=pad(query.flatten(), (1, 0)), key=pad(key.flatten(), (1, 0)), slice=end - first, window=window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Where the segments of a micro-batch lie, made once a forward pass and shared by all layers.

    Travels through Megatron as its `packed_seq_params`, the argument it hands to core attention untouched (unless
    `qkv_format` is "thd").

    Attributes:
        spans: [b] segments of each row that have queries in this rank's slice; empty where `packed` is used.
        cos, sin: float32 [s, b, 1, d / 2], of position within the segment.
        packed: None on the CPU.
    """

    qkv_format: ClassVar[str] = "sbhd"

    spans: tuple[tuple[Span, ...], ...]
    cos: Tensor
    sin: Tensor
    packed: Packed | None

    @classmethod
    def of(
        cls,
        boundaries: Tensor,
        length: int,
        head_dim: int,
        theta: float,
        dtype: torch.dtype,
        place: tuple[int, int] = (0, 1),
    ) -> Segments:
        """Read `boundaries` int32 [b, m]: 0, then the ends of a row's segments, the last one `length` and repeated.

        `length` is the window's, `dtype` the one attention will run in, `place` rank and size of the context group.
        """
        rows, device = boundaries.shape[0], boundaries.device
        assert boundaries.dim() == 2, f"boundaries must be [rows, m], got {tuple(boundaries.shape)}"
        rank, size = place
        first, end = length * rank // size, length * (rank + 1) // size
        steps = torch.arange(first, end, device=device, dtype=torch.int32)
        segment = torch.searchsorted(boundaries[:, 1:].contiguous(), steps.expand(rows, -1).contiguous(), right=True)
        position = steps - boundaries.gather(1, segment)
        frequency = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
        angle = position.t()[:, :, None, None].float() * frequency
        fused = varlen_attn is not None and boundaries.is_cuda and dtype in (torch.bfloat16, torch.float16)
        return cls(
            spans=() if fused else spans(boundaries, length, first, end),
            cos=angle.cos(),
            sin=angle.sin(),
            packed=Packed.of(boundaries, length, first, end) if fused else None,
        )


class SegmentAttention(MegatronModule):
    """Core attention for Megatron's layer spec: rotates queries and keys, then attends within segments."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        pg_collection: ProcessGroupCollection,
        attn_mask_type: AttnMaskType,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self._causal = attn_mask_type is AttnMaskType.causal
        self._context = pg_collection.cp

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, packed_seq_params: Segments, **_: Any
    ) -> Tensor:
        """query [s, b, h, d], key and value [s, b, g, d] -> [s, b, h * d]."""
        segments = packed_seq_params
        query, key = rotate(query, segments), rotate(key, segments)
        if self._context.size() > 1:  # one gather; its backward pass adds up the gradients of all ranks' queries
            both = gather_from_sequence_parallel_region(torch.cat((key, value), dim=-1), group=self._context)
            key, value = both.chunk(2, dim=-1)
        if segments.packed is not None:
            return attend_packed(query, key, value, segments.packed, causal=self._causal)
        return attend(query, key, value, segments.spans, causal=self._causal)


def rotate(x: Tensor, segments: Segments) -> Tensor:
    """Rotate x [s, b, *, d] by the positions of `segments`, in float32; the result has x's dtype."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = segments.cos, segments.sin
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


def spans(boundaries: Tensor, length: int, first: int, end: int) -> tuple[tuple[Span, ...], ...]:
    """The segments of each row of `boundaries`, see `Segments.of`, that have queries among `first` to `end`."""
    found = []
    for ends in boundaries[:, 1:].tolist():
        row = [0, *ends]
        assert row[-1] == length and row == sorted(row), f"bad boundaries {row} of {length}"
        found.append(
            tuple(
                (max(start, first) - first, min(stop, end) - first, start, stop)
                for start, stop in itertools.pairwise(row)
                if max(start, first) < min(stop, end)
            )
        )
    return tuple(found)


def attend(
    query: Tensor, key: Tensor, value: Tensor, spans: tuple[tuple[Span, ...], ...], *, causal: bool = False
) -> Tensor:
    """Attention of uncut rows in one call, of cut rows one call a segment.

    query [s, b, h, d], key and value [w, b, g, d] -> [s, b, h * d]. When `causal`, s is w.
    """
    rows, whole = query.shape[1], ((0, len(query), 0, len(key)),)
    q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))  # [b, heads, s or w, d]
    uncut = [row for row, parts in enumerate(spans) if parts == whole]
    if len(uncut) == rows:
        return _merge_heads(_segment(q, k, v, causal=causal))
    cut = [row for row, parts in enumerate(spans) if parts != whole]
    outputs = [_segment(q[uncut], k[uncut], v[uncut], causal=causal)] if uncut else []
    for row in cut:
        one = slice(row, row + 1)
        pieces = [_segment(q[one, :, a:b], k[one, :, c:d], v[one, :, c:d], causal=causal) for a, b, c, d in spans[row]]
        outputs.append(torch.cat(pieces, dim=2))
    order = torch.empty(rows, dtype=torch.int64, device=query.device)
    order[torch.tensor(uncut + cut, device=query.device)] = torch.arange(rows, device=query.device)
    return _merge_heads(torch.cat(outputs).index_select(0, order))


def attend_packed(query: Tensor, key: Tensor, value: Tensor, packed: Packed, *, causal: bool = False) -> Tensor:
    """Attention by one variable-length flash call. Shapes as `attend`."""
    length, rows = query.shape[:2]
    q, k, v = (x.transpose(0, 1).reshape(-1, *x.shape[2:]) for x in (query, key, value))
    gqa = query.shape[2] != key.shape[2]
    lengths = packed.query, packed.key, packed.slice, packed.window
    output = varlen_attn(q, k, v, *lengths, enable_gqa=gqa, window_size=(-1, 0 if causal else -1))
    assert isinstance(output, Tensor)  # and not a pair: no log-sum-exp was asked for
    return output.view(rows, length, -1).transpose(0, 1).contiguous()


def _segment(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    if on_cpu(query) and not causal:
        return attend_blocks(query, key, value)
    gqa = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=gqa)


def _merge_heads(output: Tensor) -> Tensor:
    rows, heads, length, width = output.shape
    return output.permute(2, 0, 1, 3).reshape(length, rows, heads * width)
