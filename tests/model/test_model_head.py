"""The chunked head against torch's cross-entropy in float64, and the bound on what it keeps in memory."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from model_watch import Watch
from torch import Tensor

from illada.model.head import chunked_cross_entropy

POSITIONS, HIDDEN, VOCABULARY = 23, 6, 40


@pytest.fixture(scope="module")
def group(one_rank: None) -> dist.ProcessGroup:
    return dist.group.WORLD


def _problem(positions: int = POSITIONS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, HIDDEN, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (positions,), generator=generator)
    return hidden, weight, targets, torch.rand(positions, generator=generator)


@pytest.mark.parametrize("rows", [1, 5, POSITIONS, 100])
def test_equals_the_dense_loss_whatever_the_chunk(group: dist.ProcessGroup, rows: int) -> None:
    hidden, weight, targets, coefficient = _problem()
    losses = chunked_cross_entropy(hidden, weight, targets, group, rows * VOCABULARY)
    (losses * coefficient).sum().backward()
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(h @ w.T, targets, reduction="none")
    (expected * coefficient.double()).sum().backward()
    torch.testing.assert_close(losses.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), h.grad, rtol=0, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), w.grad, rtol=0, atol=1e-5)


def test_large_logits_do_not_overflow(group: dist.ProcessGroup) -> None:
    hidden, weight, targets, _ = _problem()
    losses = chunked_cross_entropy(hidden * 1000, weight * 1000, targets, group, 5 * VOCABULARY)
    losses.sum().backward()
    assert losses.isfinite().all() and hidden.grad.isfinite().all()


def test_a_second_backward_gives_the_same(group: dist.ProcessGroup) -> None:
    hidden, weight, targets, coefficient = _problem()
    loss = (chunked_cross_entropy(hidden, weight, targets, group, 10 * VOCABULARY) * coefficient).sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_logits_exist_for_one_chunk_at_a_time(group: dist.ProcessGroup) -> None:
    positions, rows = 1000, 16
    hidden, weight, targets, _ = _problem(positions)
    with Watch() as watch:
        chunked_cross_entropy(hidden, weight, targets, group, rows * VOCABULARY).sum().backward()
    assert watch.largest == max(positions * HIDDEN, rows * VOCABULARY) < positions * VOCABULARY
