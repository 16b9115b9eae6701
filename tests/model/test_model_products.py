"""Products by oneDNN against float64, and what is left to torch."""

from __future__ import annotations

import pytest
import torch

from illada.model.products import batched, dense, matmul, on_cpu


@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 2, 96), (1, 96), (0, 96)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_equals_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(shape, generator=generator).to(dtype)
    right = torch.randn(11, shape[-1], generator=generator).to(dtype).t()
    tolerance = 0.5 if dtype == torch.bfloat16 else 1e-4
    for one, other in ((left, right), (left[..., ::2], right[::2]), (left.flip(0), right.contiguous())):
        product = matmul(one, other)
        assert product.dtype == dtype
        torch.testing.assert_close(product.double(), one.double() @ other.double(), rtol=0, atol=tolerance)
    if left.dim() == 3:
        product = batched(left, left.transpose(1, 2))
        expected = left.double() @ left.double().transpose(1, 2)
        torch.testing.assert_close(product.double(), expected, rtol=0.01, atol=tolerance)


def test_weights_with_gaps_are_copied_and_no_others() -> None:
    """oneDNN has no kernel for them but its reference."""
    rows, columns = torch.randn(7, 12), torch.randn(12, 7).t()
    for weight in (rows, columns):
        assert dense(weight) is weight
        gaps = weight[:5, :5]
        assert not gaps.is_contiguous() and not gaps.t().is_contiguous()
        assert dense(gaps).is_contiguous() and dense(gaps).equal(gaps)
        torch.testing.assert_close(matmul(weight[:, :5], gaps), weight[:, :5] @ gaps)


def test_what_stands_for_memory_is_left_to_torch() -> None:
    assert on_cpu(torch.ones(2)) and on_cpu(torch.nn.Parameter(torch.ones(2)))
    assert not on_cpu(torch.ones(2, device="meta"))
    assert matmul(torch.ones(2, 3, device="meta"), torch.ones(3, 4, device="meta")).shape == (2, 4)
