"""The masked-diffusion estimator against exact enumeration, in float64 on a vocabulary of three and up to six tokens.

Two oracles: a small conditional model whose cross-entropies depend on the whole unmasked context, and a closed-form
joint distribution, for which the bound must equal the any-order autoregressive expectation and be tight.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from illada.data.noise import batch_noise, stratified_levels
from illada.diffusion.masked import corrupt, expected_loss, weighted_loss

VOCABULARY, MASK_ID = 3, 3
EPS = 1e-3

CrossEntropy = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _model(tokens: Tensor) -> CrossEntropy:
    """A random network of the corrupted tokens, nothing symmetric about it: mask [..., l] -> cross-entropy [..., l]."""
    length = len(tokens)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(VOCABULARY + 1, length, 8, generator=generator, dtype=torch.float64)
    mix = torch.randn(length * 8, length * VOCABULARY, generator=generator, dtype=torch.float64)

    def cross_entropy(mask: Tensor) -> Tensor:
        seen = corrupt(tokens.expand(mask.shape), mask, MASK_ID)
        state = embedding[seen, torch.arange(length)].flatten(-2).tanh()
        logits = (state @ mix).unflatten(-1, (length, VOCABULARY))
        return -logits.log_softmax(-1).gather(-1, tokens.expand(mask.shape)[..., None])[..., 0]

    return cross_entropy


def _all_masks(length: int) -> Tensor:
    return torch.tensor(list(itertools.product((False, True), repeat=length)))


def _conditionals(joint: np.ndarray, tokens: np.ndarray) -> CrossEntropy:
    """- log p(x_i | unmasked) of an explicit joint distribution [VOCABULARY] * l, by summing it."""

    def cross_entropy(mask: Tensor) -> Tensor:
        flags = mask.numpy()
        known = joint[tuple(slice(None) if hidden else token for hidden, token in zip(flags, tokens, strict=True))]
        result = np.zeros(len(tokens))
        for axis, place in enumerate(np.flatnonzero(flags)):
            marginal = known.sum(axis=tuple(a for a in range(known.ndim) if a != axis))
            result[place] = -math.log(marginal[tokens[place]] / marginal.sum())
        return torch.from_numpy(result)

    return cross_entropy


def test_corrupt_masks_and_nothing_else() -> None:
    tokens = torch.tensor([[7, 8, 9], [10, 11, 12]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert corrupt(tokens, mask, 5).tolist() == [[5, 8, 5], [10, 11, 12]]
    assert tokens[0, 0] == 7


def test_weighted_loss_adds_up_over_micro_batches() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    weight = torch.tensor([3.0, 0.5, 2.0])
    whole = weighted_loss(losses, weight, 8)
    assert whole.item() == pytest.approx((3 + 1 + 8) / 8)
    parts = [weighted_loss(losses[part], weight[part], 8) for part in (slice(0, 1), slice(1, 3), slice(3, 3))]
    assert sum(parts).item() == pytest.approx(whole.item()) and parts[-1].item() == 0
    sum(parts).backward()
    torch.testing.assert_close(losses.grad, weight / 8)


@pytest.mark.parametrize("level", [0.0, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 4, 6])
def test_expectation_at_a_level_equals_the_estimator_averaged_over_all_masks(length: int, level: float) -> None:
    """The estimator itself, on each mask, times the mask's probability."""
    tokens = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(1))
    cross_entropy = _model(tokens)
    q = (1 - EPS) * level + EPS
    average = 0.0
    for mask in _all_masks(length):
        hidden = int(mask.sum())
        chance = q**hidden * (1 - q) ** (length - hidden)
        losses = cross_entropy(mask)[mask]
        average += chance * float(weighted_loss(losses, torch.full_like(losses, 1 / q), 1))
    assert expected_loss(cross_entropy, length, eps=EPS, level=level) == pytest.approx(average, rel=1e-12)


def test_expectation_over_levels_equals_a_fine_quadrature() -> None:
    tokens = torch.tensor([2, 0, 1, 1])
    cross_entropy = _model(tokens)
    points, masses = np.polynomial.legendre.leggauss(40)
    fine = sum(
        mass / 2 * expected_loss(cross_entropy, 4, eps=EPS, level=(point + 1) / 2)
        for point, mass in zip(points, masses, strict=True)
    )
    assert expected_loss(cross_entropy, 4, eps=EPS) == pytest.approx(fine, rel=1e-12)


def test_eps_vanishes_from_the_bound() -> None:
    cross_entropy = _model(torch.tensor([2, 0, 1, 1]))
    exact = expected_loss(cross_entropy, 4)
    gaps = [abs(expected_loss(cross_entropy, 4, eps=eps) - exact) for eps in (1e-2, 1e-3, 1e-4)]
    assert gaps[0] > 9 * gaps[1] > 80 * gaps[2]


@pytest.mark.parametrize(
    ("random_split", "cuts", "expected_ends"),
    [
        (0.0, None, {(5, 5)}),
        (1.0, None, {(cut, 5) for cut in (1, 2, 3, 4)}),
        (0.5, [2], {(2, 5, 5), (1, 2, 5), (2, 3, 5), (2, 4, 5)}),
    ],
    ids=["whole", "split", "documents"],
)
def test_noise_of_the_loader_makes_an_unbiased_estimate(
    random_split: float, cuts: list[int] | None, expected_ends: set[tuple[int, ...]]
) -> None:
    """Monte Carlo with the training noise, masks and weights as they come, within 4 standard errors of enumeration."""
    length, draws = 5, 40_000
    tokens = torch.tensor([2, 0, 1, 1, 0])
    documents = None if cuts is None else [np.array(cuts)] * draws
    segments = 2 if cuts is None else 3
    noise = batch_noise(11, 0, range(draws), length, EPS, random_split, cuts=documents, segments=segments)
    masks, weights = torch.from_numpy(noise.mask), torch.from_numpy(noise.weight).double()

    estimates = torch.zeros(draws, dtype=torch.float64)
    rows = [tuple(ends[1:]) for ends in noise.boundaries.tolist()]
    exact = {}
    for ends in set(rows):
        chosen = torch.tensor([row == ends for row in rows])
        exact[ends] = 0.0
        for start, stop in itertools.pairwise((0, *ends)):
            if start < stop:
                part, model = slice(start, stop), _model(tokens[start:stop])
                estimates[chosen] += (model(masks[chosen, part]) * weights[chosen, part]).sum(-1)
                exact[ends] += expected_loss(model, stop - start, eps=EPS)
    assert set(exact) == expected_ends
    expected = torch.tensor([exact[ends] for ends in rows], dtype=torch.float64)
    difference = estimates - expected
    error = float(difference.std()) / math.sqrt(draws)
    assert error < 0.02 * float(expected.mean()), "too few draws to show anything"
    assert abs(float(difference.mean())) < 4 * error


def test_stratified_levels_keep_the_expectation_and_lower_the_variance() -> None:
    """Batches of 16 windows under a loss that grows with the part masked: CE = 5 k / l nats where k of l are masked.

    Exact: given p the estimate of a token is E[5 (1 + Binomial(l - 1, p)) / l], and p is (1 + eps) / 2 in the mean.
    """
    length, rows, steps = 256, 16, 300
    exact = 5 * (1 + (length - 1) * (1 + EPS) / 2) / length
    estimates = {}
    for name in ("independent", "stratified"):
        losses = np.empty(steps)
        for step in range(steps):
            levels = stratified_levels(0, step, 0, rows, rows) if name == "stratified" else None
            windows = range(step * rows, (step + 1) * rows)
            noise = batch_noise(0, 0, windows, length, EPS, 0.0, levels=levels)
            entropy = 5 * noise.mask.sum(1, keepdims=True) / length
            losses[step] = (entropy * noise.weight).sum() / (rows * length)
        assert abs(losses.mean() - exact) < 4 * losses.std() / math.sqrt(steps)
        estimates[name] = losses
    assert estimates["stratified"].var() < estimates["independent"].var() / 10


def test_the_bound_is_the_any_order_autoregressive_loss() -> None:
    """E over uniform orders of sum_k - log p(x_order[k] | earlier ones), for any conditional model, with eps = 0."""
    length = 4
    cross_entropy = _model(torch.tensor([2, 0, 1, 1]))
    total = 0.0
    for order in itertools.permutations(range(length)):
        for step, place in enumerate(order):
            mask = torch.ones(length, dtype=torch.bool)
            mask[list(order[:step])] = False
            total += float(cross_entropy(mask)[place])
    assert expected_loss(cross_entropy, length) == pytest.approx(total / math.factorial(length), rel=1e-12)


def test_the_bound_is_tight_for_the_true_conditionals() -> None:
    """Conditionals of one joint distribution agree in every order, so the bound equals - log p(x)."""
    length = 4
    joint = np.random.default_rng(0).dirichlet(np.full(VOCABULARY**length, 0.3)).reshape((VOCABULARY,) * length)
    for tokens in ([0, 1, 2, 0], [2, 2, 1, 0]):
        bound = expected_loss(_conditionals(joint, np.array(tokens)), length)
        assert bound == pytest.approx(-math.log(joint[tuple(tokens)]), rel=1e-9)


def test_the_bound_of_independent_guesses_is_the_sum_of_their_entropies() -> None:
    """A model that ignores its context: every order costs the same, and more than the joint's entropy."""
    length = 3
    joint = np.random.default_rng(0).dirichlet(np.full(VOCABULARY**length, 0.3)).reshape((VOCABULARY,) * length)
    marginals = [joint.sum(axis=tuple(a for a in range(length) if a != place)) for place in range(length)]
    mean = 0.0
    for tokens in itertools.product(range(VOCABULARY), repeat=length):
        losses = torch.tensor([-math.log(marginals[place][token]) for place, token in enumerate(tokens)]).double()
        mean += float(joint[tokens]) * expected_loss(lambda mask, losses=losses: losses, length)
    assert mean == pytest.approx(-sum(float((m * np.log(m)).sum()) for m in marginals), rel=1e-6)
    assert mean > -float((joint * np.log(joint)).sum())
