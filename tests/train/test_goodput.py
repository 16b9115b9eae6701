"""Goodput by hand: waiting, restarts, skipped steps."""

from __future__ import annotations

import pytest

from illada.train.goodput import Goodput


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_of_steps_over_wall_seconds() -> None:
    clock = Clock()
    goodput = Goodput(40, clock)
    clock.now += 10  # ranks start
    assert goodput.observe(40, 2.0) == 0.0
    clock.now += 10
    assert goodput.observe(45, 2.0) == pytest.approx(10 / 20)
    clock.now += 20  # a checkpoint is written: nothing new
    assert goodput.observe(45, 2.0) == pytest.approx(10 / 40)
    clock.now += 10
    assert goodput.observe(46, 0.0) == pytest.approx(10 / 50)  # skipped: it changed no weight


def test_undone_steps_do_not_count() -> None:
    clock = Clock()
    goodput = Goodput(0, clock)
    clock.now += 100
    assert goodput.observe(50, 2.0) == pytest.approx(1.0)
    assert goodput.observe(20, 2.0) == pytest.approx(0.4)  # back to the checkpoint of step 20
    clock.now += 60
    assert goodput.observe(50, 2.0) == pytest.approx(100 / 160)


@pytest.mark.parametrize("reached", [10, 30])
def test_restart_from_before_this_attempt(reached: int) -> None:
    clock = Clock()
    goodput = Goodput(10, clock)
    clock.now += 40
    goodput.observe(reached, 1.0)
    assert goodput.observe(5, 1.0) == 0.0
    clock.now += 10
    assert goodput.observe(10, 5.0) == pytest.approx(25 / 50)
