"""Exact points of the learning-rate schedule."""

from __future__ import annotations

import pytest

from illada.config import Schedule
from illada.train.schedule import learning_rate

COSINE = Schedule(peak=1.0, minimum=0.1, warmup_steps=4, decay="cosine", decay_fraction=0.4)


def test_cosine_at_exact_points() -> None:
    rates = [learning_rate(COSINE, step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:12]) == {1.0}  # constant until 40% of 20 steps are left
    assert rates[15] == pytest.approx(0.55)  # halfway through the decay: the mean of peak and minimum
    assert rates[19] == 0.1
    assert rates[12:] == sorted(rates[12:], reverse=True)


def test_linear_at_exact_points() -> None:
    linear = COSINE.model_copy(update={"decay": "linear"})
    assert [learning_rate(linear, step, 10) for step in (5, 6, 7, 8, 9)] == pytest.approx([1, 0.775, 0.55, 0.325, 0.1])


def test_no_warmup_and_no_decay() -> None:
    constant = Schedule(peak=2.0, minimum=0.0, warmup_steps=0, decay="linear", decay_fraction=0.0)
    assert [learning_rate(constant, step, 3) for step in range(3)] == [2.0] * 3


def test_warmup_longer_than_the_run_never_exceeds_the_decay() -> None:
    long = Schedule(peak=1.0, minimum=0.0, warmup_steps=10, decay="linear", decay_fraction=1.0)
    assert [learning_rate(long, step, 4) for step in range(4)] == pytest.approx([0.1, 0.2, 0.25, 0.0])


@pytest.mark.parametrize("step", [-1, 20])
def test_outside_of_the_run(step: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        learning_rate(COSINE, step, 20)
