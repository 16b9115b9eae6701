"""Exact points of the learning-rate schedule."""

from __future__ import annotations

import pytest

from illada.config import Drop, Schedule
from illada.train import schedule


def learning_rate(config: Schedule, step: int, total_steps: int) -> float:
    """Where the decay begins as planned."""
    return schedule.learning_rate(config, step, total_steps, round(config.decay_fraction * total_steps))


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


def test_stages_of_llada() -> None:
    """4e-4 to 1.2 T of 2.3 T tokens, 1e-4 to 2.0 T, then linear to 1e-5; here a step is a thousandth of a T."""
    staged = Schedule(
        peak=4e-4, minimum=1e-5, warmup_steps=2, drops=(Drop(after=1.2 / 2.3, rate=1e-4),), decay="linear",
        decay_fraction=0.3 / 2.3,
    )  # fmt: skip
    rates = [learning_rate(staged, step, 2300) for step in range(2300)]
    assert rates[0] == 2e-4
    assert set(rates[1:1200]) == {4e-4} and set(rates[1200:2000]) == {1e-4}
    assert rates[2149] == pytest.approx((1e-4 + 1e-5) / 2)
    assert rates[2299] == pytest.approx(1e-5, rel=1e-12)


@pytest.mark.parametrize(("peak", "minimum"), [(5e-6, 5e-7), (2.5e-5, 2.5e-6)])
def test_linear_tail_of_fine_tuning(peak: float, minimum: float) -> None:
    """iLLaDA's and LLaDA's: warmup, constant, and linear to a tenth over the last tenth; against its own line."""
    tail = Schedule(peak=peak, minimum=minimum, warmup_steps=50, decay="linear", decay_fraction=0.1)
    rates = [learning_rate(tail, step, 1000) for step in range(1000)]
    assert rates[:50] == [pytest.approx(peak * update / 50) for update in range(1, 51)]
    assert set(rates[49:900]) == {peak}
    assert rates[900:] == [pytest.approx(peak - (peak - minimum) * update / 100) for update in range(1, 101)]
    assert rates[-1] == minimum


@pytest.mark.parametrize(
    "drops",
    [((0.5, 1.0),), ((0.5, 0.01),), ((0.6, 0.5),), ((0.2, 0.5), (0.1, 0.4)), ((0.2, 0.5), (0.3, 0.5))],
)
def test_drops_that_do_not_go_down_are_refused(drops: tuple[tuple[float, float], ...]) -> None:
    stages = tuple({"after": after, "rate": rate} for after, rate in drops)
    with pytest.raises(ValueError, match="drops go down from the peak"):
        Schedule.model_validate({**COSINE.model_dump(), "drops": stages})


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
