"""Which updates are left out, on synthetic traces of gradient norms."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illada.artifacts import Folder
from illada.config import Guard
from illada.data.snapshots import SnapshotSplit
from illada.train.guard import History, Skip, explain, suspects

GUARD = Guard(spike=5.0, history=20)


def follow(norms: Sequence[float], guard: Guard = GUARD, history: History | None = None) -> tuple[list[int], History]:
    """Which of these updates are left out, and the history after them."""
    history, left_out = history or History(), []
    for step, norm in enumerate(norms):
        reason = history.verdict(guard, 2.0, norm)
        if reason is None:
            history = history.made(guard, norm)
        else:
            left_out.append(step)
            history = history.skipped(Skip(step=step, reason=reason, suspects=()))
    return left_out, history


def by_hand(norms: Sequence[float], guard: Guard) -> list[int]:
    """The definition, over the whole trace each time."""
    assert guard.spike is not None
    used: list[float] = []
    left_out = []
    for step, norm in enumerate(norms):
        last = used[-guard.history :]
        spike = len(last) == guard.history and norm > guard.spike * statistics.median(last) > 0
        if not math.isfinite(norm) or spike:
            left_out.append(step)
        else:
            used.append(norm)
    return left_out


def noisy(steps: int, seed: int = 0) -> list[float]:
    """Norms that fall as they do in training, with log-normal noise."""
    noise = np.random.default_rng(seed).lognormal(0.0, 0.3, steps)
    values: list[float] = (noise * (0.5 + 4 / np.sqrt(1 + np.arange(steps)))).tolist()
    return values


def test_falling_noisy_norms_are_left_alone() -> None:
    for seed in range(20):
        assert follow(noisy(2000, seed))[0] == []


def test_spikes_are_left_out_and_do_not_hide_each_other() -> None:
    norms = noisy(400)
    spikes = [100, 101, 102, 103, 200, 399]
    for step in spikes:
        norms[step] = 1e3
    assert follow(norms)[0] == spikes
    assert follow(norms, Guard(spike=None, history=20))[0] == []
    assert follow(norms, Guard(spike=1e4, history=20))[0] == []


def test_no_spike_before_there_is_a_history() -> None:
    norms = [1.0] * 19 + [100.0, 100.0]
    assert follow(norms)[0] == [20]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_from_the_first_update_on(bad: float) -> None:
    assert History().verdict(GUARD, 1.0, bad) == "not finite"
    assert History().verdict(Guard(spike=None), bad, 1.0) == "not finite"


def test_a_slow_rise_is_no_spike_and_a_step_up_is() -> None:
    assert follow([1.02**step for step in range(1000)])[0] == []
    left_out, history = follow([1.0] * 50 + [6.0] * 5)
    assert left_out == [50, 51, 52, 53, 54], "until `most_skips` of them end the stage"
    assert [skip.step for skip in history.skips] == left_out
    assert history.made(GUARD, 1.0).skips == (), "in a row"


def test_zero_gradients_make_no_spike_of_the_first_other() -> None:
    assert follow([0.0] * 30 + [1.0])[0] == []


@given(
    st.lists(st.one_of(st.floats(0.01, 100), st.sampled_from([0.0, 1.0, math.nan, math.inf])), max_size=80),
    st.integers(0, 80),
    st.integers(10, 15),
)
def test_as_defined_and_as_uninterrupted(norms: list[float], kill: int, length: int) -> None:
    """Killed anywhere and resumed from what a checkpoint keeps, the decisions are those of the definition."""
    guard = Guard(spike=3.0, history=length)
    whole, last = follow(norms, guard)
    assert whole == by_hand(norms, guard)
    before, kept = follow(norms[:kill], guard)
    resumed = History.from_json(json.loads(json.dumps(kept.to_json())))
    assert resumed == kept
    after, end = follow(norms[kill:], guard, resumed)
    assert before + [kill + step for step in after] == whole
    assert end.norms == last.norms and len(end.skips) == len(last.skips)


def test_suspects_are_the_windows_of_the_largest_loss() -> None:
    losses = [1.0, math.nan, 3.0, math.inf, 0.0, 2.0]
    assert suspects([10, 11, 12, 13, 14, 15], losses) == (11, 13, 12, 15)
    assert suspects([7], [0.0]) == (7,)


def test_the_error_names_steps_windows_and_the_command() -> None:
    skips = [Skip(step=8, reason="spike", suspects=(3, 1)), Skip(step=9, reason="not finite", suspects=(1, 5))]

    def inspect(windows: Sequence[int]) -> str:
        return f"--windows {','.join(map(str, windows))} --length 512"

    said = explain(skips, Folder.at("/data/shards"), inspect)
    assert "2 updates in a row" in said and "step 8 (spike): windows 3,1; step 9 (not finite): windows 1,5" in said
    assert "`illada data inspect /data/shards --windows 3,1,5 --length 512`" in said
    snapshot = SnapshotSplit(store="/store", fingerprint="0" * 64, split="train", label="web@3")
    assert "`illada data inspect web@3 --store /store --windows 3,1,5 --length 512`" in explain(
        skips, snapshot, inspect
    )
