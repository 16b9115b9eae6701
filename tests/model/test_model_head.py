"""The tiled head against torch's cross-entropy in float64, and the bound on what it keeps in memory."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from model_watch import Watch
from torch import Tensor

from illada.model.head import tiled_cross_entropy

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


def _expected(hidden: Tensor, weight: Tensor, targets: Tensor, coefficient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(h @ w.T, targets, reduction="none")
    return losses, *torch.autograd.grad((losses * coefficient.double()).sum(), (h, w))


@pytest.mark.parametrize("kept", [0, 600, 2**20])
@pytest.mark.parametrize("rows", [1, 7, VOCABULARY, 100])
def test_equals_the_dense_loss_whatever_the_tiles(group: dist.ProcessGroup, rows: int, kept: int) -> None:
    hidden, weight, targets, coefficient = _problem()
    losses = tiled_cross_entropy(hidden, weight, targets, group, rows * POSITIONS, kept)
    gradients = torch.autograd.grad((losses * coefficient).sum(), (hidden, weight))
    found, expected = (losses, *gradients), _expected(hidden, weight, targets, coefficient)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


def test_a_target_that_is_nearly_certain_keeps_its_gradient_in_bfloat16(group: dist.ProcessGroup) -> None:
    """p - 1 is not a bfloat16 p from which 1 is taken: that would be 0, or some 0.004."""
    weight = torch.eye(8).bfloat16().requires_grad_()
    hidden = (9.0 * torch.eye(8)).bfloat16().requires_grad_()
    coefficient = torch.ones(8)
    losses = tiled_cross_entropy(hidden, weight, torch.arange(8), group, 24)
    found = torch.autograd.grad(losses.sum(), (hidden, weight))
    expected = _expected(hidden, weight, torch.arange(8), coefficient)[1:]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double().diagonal(), other.diagonal(), rtol=0.02, atol=0)


def test_many_positions_of_one_target_add_up_in_float32(group: dist.ProcessGroup) -> None:
    hidden = torch.full((4000, HIDDEN), 0.5).bfloat16().requires_grad_()
    weight = torch.zeros(VOCABULARY, HIDDEN).bfloat16().requires_grad_()
    targets = torch.full((4000,), 3)
    losses = tiled_cross_entropy(hidden, weight, targets, group, 7 * 4000)
    (found,) = torch.autograd.grad(losses.sum(), weight)
    expected = _expected(hidden, weight, targets, torch.ones(4000))[2]
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0)


def test_large_logits_do_not_overflow(group: dist.ProcessGroup) -> None:
    hidden, weight, targets, _ = _problem()
    losses = tiled_cross_entropy(hidden * 1000, weight * 1000, targets, group, 5 * POSITIONS)
    losses.sum().backward()
    assert losses.isfinite().all() and hidden.grad.isfinite().all() and weight.grad.isfinite().all()


def test_nothing_masked(group: dist.ProcessGroup) -> None:
    hidden, weight, targets, _ = _problem(0)
    losses = tiled_cross_entropy(hidden, weight, targets, group)
    losses.sum().backward()
    assert losses.shape == (0,) and torch.equal(weight.grad, torch.zeros_like(weight))


def test_a_second_backward_gives_the_same(group: dist.ProcessGroup) -> None:
    hidden, weight, targets, coefficient = _problem()
    loss = (tiled_cross_entropy(hidden, weight, targets, group, 10 * POSITIONS) * coefficient).sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_logits_exist_for_one_tile_at_a_time(group: dist.ProcessGroup) -> None:
    positions, rows = 1000, 8
    hidden, weight, targets, _ = _problem(positions)
    with Watch() as watch:
        tiled_cross_entropy(hidden, weight, targets, group, rows * positions).sum().backward()
    assert watch.largest == max(positions * HIDDEN, rows * positions) < positions * VOCABULARY
