"""The plateau test on synthetic losses: how often it is wrong, how soon it is right, and what does not disturb it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from illada.config import Plateau
from illada.train.plateau import BLOCKS, is_plateau, looks, upward_trend

PLATEAU = Plateau(window=200, fall=0.02, false_alarm=0.05)
RUNS = 400


def first_look(seed: int, windows: int, falls: float, noise: float, heavy: bool = False) -> int | None:
    """The look that says plateau, in a run whose loss falls by the fraction `falls` of about 3 in each window."""
    generator = np.random.default_rng(seed)
    steps = np.arange(windows * PLATEAU.window)
    draws = generator.standard_t(2, len(steps)) if heavy else generator.standard_normal(len(steps))
    losses = 3 * (1 - falls) ** (steps / PLATEAU.window) + noise * draws
    for look in range(1, windows + 1):
        if is_plateau(losses[(look - 1) * 200 : look * 200].tolist(), PLATEAU, look):
            return look
    return None


@pytest.mark.parametrize("heavy", [False, True])
def test_false_alarms_are_as_rare_as_stated(heavy: bool) -> None:
    """A loss that falls just enough for twenty windows: at most 5% of runs may stop, give or take the count's error."""
    alarms = sum(first_look(seed, 20, 0.02, 0.05, heavy) is not None for seed in range(RUNS))
    assert alarms / RUNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


def test_a_flat_loss_is_seen_at_once() -> None:
    seen = [first_look(seed, 2, 0.0, 0.02) for seed in range(100)]
    assert sum(look == 1 for look in seen) >= 90


def test_a_loss_that_falls_twice_as_fast_is_never_taken_for_flat() -> None:
    assert all(first_look(seed, 20, 0.04, 0.02) is None for seed in range(100))


def test_noise_that_hides_the_fall_is_no_reason() -> None:
    """Where a window cannot tell, the decay waits (and begins as planned at the latest)."""
    assert sum(first_look(seed, 1, 0.0, 30.0) is not None for seed in range(RUNS)) / RUNS <= 0.06


def test_one_spike_changes_nothing() -> None:
    losses = [3.0 + 0.001 * ((-1) ** step) for step in range(200)]
    spiked = [*losses[:20], 1e6, *losses[21:]]
    assert is_plateau(losses, PLATEAU, 1) and is_plateau(spiked, PLATEAU, 1)


def test_trend_against_all_orders() -> None:
    """For five values every order can be counted; the normal approximation is near."""
    import itertools

    values = (1.0, 2.0, 4.0, 3.0, 5.0)

    def score(order: tuple[float, ...]) -> int:
        return sum((b > a) - (b < a) for a, b in itertools.combinations(order, 2))

    exact = np.mean([score(order) >= score(values) for order in itertools.permutations(values)])
    assert upward_trend(values) == pytest.approx(exact, abs=0.01)
    assert upward_trend([1.0] * BLOCKS) == 0.5


def test_windows_follow_the_warmup_without_overlap() -> None:
    assert [step for step in range(1, 700) if looks(PLATEAU, 50, step)] == [250, 450, 650]
    assert [looks(PLATEAU, 50, step) for step in (250, 450, 650)] == [1, 2, 3]


def test_too_few_finite_losses_say_nothing() -> None:
    assert not is_plateau([1.0] * (BLOCKS - 1), PLATEAU, 1)
