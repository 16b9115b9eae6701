"""Attention within segments against a dense masked softmax, and that nothing of size window x window is made."""

from __future__ import annotations

import pytest
import torch
from model_watch import Watch
from torch import Tensor

from illada.model import attention
from illada.model.attention import Segments, attend, attend_packed, cumulative_lengths, rotate

LENGTH, HEADS, KV_HEADS, WIDTH = 12, 4, 2, 8


def _operands(rows: int, length: int = LENGTH, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(length, rows, heads, width, generator=generator, requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return q, k, v


def _dense(query: Tensor, key: Tensor, value: Tensor, splits: tuple[int, ...]) -> Tensor:
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, dim=2) for x in (key, value))
    segment = torch.arange(len(query)) >= torch.tensor(splits)[:, None]
    visible = segment[:, None, :, None] == segment[:, None, None, :]
    scores = torch.einsum("ibhd,jbhd->bhij", query, key) / query.shape[-1] ** 0.5
    chances = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("bhij,jbhd->ibhd", chances, value).flatten(2)


def _boundaries(splits: tuple[int, ...], length: int = LENGTH) -> Tensor:
    return torch.tensor([[0, split, length] for split in splits], dtype=torch.int32)


@pytest.mark.parametrize("splits", [(12, 12), (1, 11), (12, 5, 12, 7), (3,), (12,)], ids=str)
def test_equals_dense_attention(splits: tuple[int, ...]) -> None:
    operands = _operands(len(splits))
    output = attend(*operands, splits)
    gradients = torch.autograd.grad(output.square().sum(), operands)
    doubles = tuple(x.detach().double().requires_grad_() for x in operands)
    expected = _dense(*doubles, splits)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-6)
    for gradient, double in zip(gradients, torch.autograd.grad(expected.square().sum(), doubles), strict=True):
        torch.testing.assert_close(gradient.double(), double, rtol=0, atol=1e-5)


@pytest.mark.parametrize("splits", [(12, 12), (12, 5, 12, 7)], ids=str)
def test_packing_for_the_variable_length_kernel(splits: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA kernel is stood in for by a loop over `cumulative`, so that the layout around it is checked anywhere."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int, *, enable_gqa: bool
    ) -> Tensor:
        assert ends_q.dtype == torch.int32 and torch.equal(ends_q, ends_k) and enable_gqa
        assert max_q == max_k >= int(ends_q.diff().max()) and int(ends_q[-1]) == len(q)
        pieces = [
            attend(q[start:end, None], k[start:end, None], v[start:end, None], (end - start,)).view(
                end - start, HEADS, -1
            )
            for start, end in zip(ends_q.tolist(), ends_q.tolist()[1:], strict=False)
            if start < end
        ]
        return torch.cat(pieces)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    operands = _operands(len(splits))
    packed = attend_packed(*operands, cumulative_lengths(_boundaries(splits), LENGTH))
    torch.testing.assert_close(packed, attend(*operands, splits), rtol=0, atol=1e-6)


def test_positions_restart_and_rotations_are_relative() -> None:
    """q(i) . k(j) after rotation depends on i - j alone within a segment, and the second starts again at 0."""
    segments = Segments.of(_boundaries((5, 12)), LENGTH, WIDTH, 10_000.0, torch.float32)
    assert segments.splits == (5, 12) and segments.cumulative is None
    torch.testing.assert_close(segments.cos[5:, 0], segments.cos[:7, 1])
    torch.testing.assert_close(segments.sin[5:, 0], segments.sin[:7, 1])
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(WIDTH, generator=generator).expand(LENGTH, 2, 1, WIDTH) for _ in range(2))
    products = torch.einsum("ibhd,jbhd->bij", rotate(q, segments), rotate(k, segments))
    torch.testing.assert_close(products[1, :7, :7], products[1, 5:, 5:], rtol=0, atol=1e-5)
    torch.testing.assert_close(rotate(q, segments)[0], q[0])
    assert not torch.allclose(products[1], products[1].T, atol=1e-2), "direction matters"


def test_rotation_is_computed_in_float32() -> None:
    segments = Segments.of(_boundaries((8000,), 8000), 8000, WIDTH, 500_000.0, torch.bfloat16)
    x = torch.randn(8000, 1, 1, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = rotate(x.float(), segments).bfloat16()
    assert torch.equal(rotate(x, segments), expected)


@pytest.mark.parametrize("splits", [(512, 512), (512, 200)], ids=str)
def test_no_scores_of_the_whole_window_exist(splits: tuple[int, ...]) -> None:
    length = 512
    operands = _operands(len(splits), length, width=2)
    with Watch() as watch:
        attend(*operands, splits).sum().backward()
    assert watch.largest < length * length
    assert any("flash_attention" in name for name in watch.operations)
