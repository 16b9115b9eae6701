"""Attention within segments against a dense masked softmax, and that nothing of size window x window is made."""

from __future__ import annotations

import itertools

import pytest
import torch
from model_watch import Watch
from torch import Tensor

from illada.model import attention, attention_cpu
from illada.model.attention import Packed, Segments, attend, attend_packed, rotate, spans

LENGTH, HEADS, KV_HEADS, WIDTH = 12, 4, 2, 8
Rows = tuple[tuple[int, ...], ...]
CUT: list[Rows] = [
    ((0, 12), (0, 12)),
    ((0, 1, 12), (0, 11, 12)),
    ((0, 12), (0, 5, 12), (0, 12), (0, 7, 12)),
    ((0, 2, 3, 7, 12), (0, 12), (0, 4, 8, 12)),
    ((0, 3, 12),),
]
"""Boundaries of rows."""


def _operands(rows: int, length: int = LENGTH, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(length, rows, heads, width, generator=generator, requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return q, k, v


def _dense(query: Tensor, key: Tensor, value: Tensor, rows: Rows, causal: bool = False) -> Tensor:
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, dim=2) for x in (key, value))
    segment = torch.stack([sum(torch.arange(len(query)) >= end for end in row[1:]) for row in rows])
    visible = segment[:, None, :, None] == segment[:, None, None, :]
    if causal:
        visible = visible & torch.ones(len(query), len(query)).tril().bool()
    scores = torch.einsum("ibhd,jbhd->bhij", query, key) / query.shape[-1] ** 0.5
    chances = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("bhij,jbhd->ibhd", chances, value).flatten(2)


def _boundaries(rows: Rows) -> Tensor:
    most = max(map(len, rows))
    return torch.tensor([[*row, *[row[-1]] * (most - len(row))] for row in rows], dtype=torch.int32)


@pytest.mark.parametrize("slices", [1, 2, 3], ids=lambda count: f"{count} slices")
@pytest.mark.parametrize("rows", CUT, ids=str)
def test_equals_dense_attention(rows: Rows, slices: int) -> None:
    """Each slice of the queries, as context-parallel ranks have them, and all of them with their gradients."""
    operands = _operands(len(rows))
    query, key, value = operands
    parts = []
    for part in range(slices):
        first, end = LENGTH * part // slices, LENGTH * (part + 1) // slices
        parts.append(attend(query[first:end], key, value, spans(_boundaries(rows), LENGTH, first, end)))
    output = torch.cat(parts)
    gradients = torch.autograd.grad(output.square().sum(), operands)
    doubles = tuple(x.detach().double().requires_grad_() for x in operands)
    expected = _dense(*doubles, rows)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-6)
    for gradient, double in zip(gradients, torch.autograd.grad(expected.square().sum(), doubles), strict=True):
        torch.testing.assert_close(gradient.double(), double, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", CUT, ids=str)
def test_causal_attention_equals_dense(rows: Rows) -> None:
    operands = _operands(len(rows))
    output = attend(*operands, spans(_boundaries(rows), LENGTH, 0, LENGTH), causal=True)
    expected = _dense(*(x.detach().double() for x in operands), rows, causal=True)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("rows", CUT, ids=str)
def test_packing_for_the_variable_length_kernel(rows: Rows, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA kernel is stood in for by a loop over the ends, so that the layout around it is checked anywhere."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int, *, enable_gqa: bool,
        window_size: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        assert window_size == (-1, 0 if causal else -1)
        assert ends_q.dtype == ends_k.dtype == torch.int32 and enable_gqa
        assert max_q >= int(ends_q.diff().max()) and max_k >= int(ends_k.diff().max())
        assert int(ends_q[-1]) == len(q) and int(ends_k[-1]) == len(k)
        pieces = []
        for (a, b), (c, d) in zip(
            itertools.pairwise(ends_q.tolist()), itertools.pairwise(ends_k.tolist()), strict=True
        ):
            if a < b:
                whole = (((0, b - a, 0, d - c),),)
                pieces.append(
                    attend(q[a:b, None], k[c:d, None], v[c:d, None], whole, causal=causal).view(b - a, HEADS, -1)
                )
        return torch.cat(pieces)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    query, key, value = _operands(len(rows))
    boundaries = _boundaries(rows)
    slices = ((0, LENGTH),) if causal else ((0, LENGTH), (0, LENGTH // 2), (LENGTH // 2, LENGTH))
    for first, end in slices:
        packing = Packed.of(boundaries, LENGTH, first, end)
        packed = attend_packed(query[first:end], key, value, packing, causal=causal)
        expected = attend(query[first:end], key, value, spans(boundaries, LENGTH, first, end), causal=causal)
        torch.testing.assert_close(packed, expected, rtol=0, atol=1e-6)


def test_positions_restart_and_rotations_are_relative() -> None:
    """q(i) . k(j) after rotation depends on i - j alone within a segment, and the second starts again at 0."""
    boundaries = _boundaries(((0, 5, 12), (0, 12)))
    segments = Segments.of(boundaries, LENGTH, WIDTH, 10_000.0, torch.float32)
    assert segments.spans == (((0, 5, 0, 5), (5, 12, 5, 12)), ((0, 12, 0, 12),)) and segments.packed is None
    torch.testing.assert_close(segments.cos[5:, 0], segments.cos[:7, 1])
    torch.testing.assert_close(segments.sin[5:, 0], segments.sin[:7, 1])
    late = Segments.of(boundaries, LENGTH, WIDTH, 10_000.0, torch.float32, (2, 3))
    assert torch.equal(late.cos, segments.cos[8:]) and torch.equal(late.sin, segments.sin[8:])
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(WIDTH, generator=generator).expand(LENGTH, 2, 1, WIDTH) for _ in range(2))
    products = torch.einsum("ibhd,jbhd->bij", rotate(q, segments), rotate(k, segments))
    torch.testing.assert_close(products[0, :7, :7][:5, :5], products[0, 5:10, 5:10], rtol=0, atol=1e-5)
    torch.testing.assert_close(products[1, :7, :7], products[0, 5:, 5:], rtol=0, atol=1e-5)
    torch.testing.assert_close(rotate(q, segments)[0], q[0])
    assert not torch.allclose(products[1], products[1].T, atol=1e-2), "direction matters"


def test_rotation_is_computed_in_float32() -> None:
    segments = Segments.of(_boundaries(((0, 8000),)), 8000, WIDTH, 500_000.0, torch.bfloat16)
    x = torch.randn(8000, 1, 1, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = rotate(x.float(), segments).bfloat16()
    assert torch.equal(rotate(x, segments), expected)


@pytest.mark.parametrize("block", [2**21, 3000, 400])
@pytest.mark.parametrize(("heads", "kv_heads", "queries", "keys"), [(4, 2, 24, 24), (4, 4, 17, 50), (6, 1, 40, 40)])
def test_blocks_of_scores(
    heads: int, kv_heads: int, queries: int, keys: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against torch's attention in float64, whether a block is several heads, one or some queries of one."""
    monkeypatch.setattr(attention_cpu, "BLOCK_SCORES", block)
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, heads, queries, WIDTH), (3, kv_heads, keys, WIDTH), (3, kv_heads, keys, WIDTH))
    operands = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    output = attention_cpu.attend_blocks(*operands)
    gradients = torch.autograd.grad(output.square().sum(), operands)
    doubles = [x.detach().double().requires_grad_() for x in operands]
    expected = torch.nn.functional.scaled_dot_product_attention(*doubles, enable_gqa=heads != kv_heads)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-6)
    for gradient, double in zip(gradients, torch.autograd.grad(expected.square().sum(), doubles), strict=True):
        torch.testing.assert_close(gradient.double(), double, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [((0, 512), (0, 512)), ((0, 512), (0, 200, 512))], ids=str)
def test_no_scores_of_the_whole_window_exist(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 512
    monkeypatch.setattr(attention_cpu, "BLOCK_SCORES", 100 * length)
    operands = _operands(len(rows), length, width=2)
    with Watch() as watch:
        attend(*operands, spans(_boundaries(rows), length, 0, length)).sum().backward()
    assert watch.largest == 100 * length < length * length
