"""Batch-size ramps: against counting step by step, and what they leave as it is: the order of windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from illada.config import BatchStage, Objective, Schedule, Training
from illada.data.batch_sizes import BatchSizes
from illada.data.loader import Loader, MovingLoader
from illada.data.shards import TokenShards
from illada.data.windows import Windows

SCHEDULE = Schedule(peak=1e-3, minimum=0, warmup_steps=0, decay="linear", decay_fraction=0)


def training(global_batch: int, window: int, stages: list[tuple[int, int]]) -> Training:
    ramp = tuple(BatchStage(batch=batch, until_tokens=tokens) for batch, tokens in stages)
    return Training(window=window, global_batch=global_batch, batch_ramp=ramp, steps=1, schedule=SCHEDULE)


RAMP = training(8, 32, [(2, 600), (4, 1500)])  # 10 steps of 2 windows, then 7 of 4


@st.composite
def ramps(draw: st.DrawFn) -> Training:
    batches = sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=5)))
    ends = sorted(draw(st.sets(st.integers(1, 3000), min_size=len(batches) - 1, max_size=len(batches) - 1)))
    return training(batches[-1], draw(st.integers(2, 40)), list(zip(batches[:-1], ends, strict=True)))


@given(ramps(), st.integers(0, 200), st.integers(0, 60))
def test_as_counted_step_by_step(config: Training, rows: int, start: int) -> None:
    sizes, done = BatchSizes.of(config), 0
    later = sizes.after(start)
    counted = 0  # whole steps in `rows`
    for step in range(200):
        tokens = done * config.window
        expected = next((s.batch for s in config.batch_ramp if tokens < s.until_tokens), config.global_batch)
        assert (sizes.size(step), sizes.before(step)) == (expected, done)
        if step >= start:
            assert later.size(step - start) == expected
            assert later.before(step - start) == done - sizes.before(start)
        done += expected
        counted += done <= rows
    assert sizes.steps(rows) == counted


def test_exact_stages() -> None:
    sizes = BatchSizes.of(RAMP)
    assert [sizes.size(step) for step in (0, 9, 10, 16, 17, 1000)] == [2, 2, 4, 4, 8, 8]
    assert sizes.before(17) == 48 and sizes.before(18) == 56
    with pytest.raises(ValueError, match="counted from 0"):
        sizes.size(-1)


def loader(shards: TokenShards, **options: object) -> Loader:
    return Loader(Windows(shards, 32), 8, **{"seed": 3, "objective": Objective(), **options})


Make = Callable[..., TokenShards]
Documents = list[NDArray[np.int64]]


def test_rows_come_in_the_order_they_have_without(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents)
    plain, ramped = loader(shards), loader(shards, sizes=BatchSizes.of(RAMP))
    total, steps = len(plain.windows), ramped.steps(3)
    ids = np.concatenate([ramped.window_ids(step) for step in range(steps + 1)])
    expected = np.concatenate([plain.window_ids(step) for step in range(len(ids) // 8 + 1)])[: len(ids)]
    np.testing.assert_array_equal(ids, expected)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(ids[epoch * total : (epoch + 1) * total]), np.arange(total))
    assert ramped.epochs(steps) <= 3 < ramped.epochs(steps + 1)
    for step in (0, 9, 10, 16, 17):  # in any parts
        whole = ramped.batch(step, 0, ramped.sizes.size(step))
        np.testing.assert_array_equal(whole.window_ids, ramped.window_ids(step))
        assert ramped.epoch(step) == whole.epochs[0]
        for first in range(len(whole.tokens)):
            np.testing.assert_array_equal(ramped.batch(step, first, 1).mask[0], whole.mask[first])
    with pytest.raises(ValueError, match="rows 0 to 3: the step has rows 0 to 2"):
        ramped.batch(0, 0, 3)


def test_levels_are_spread_over_the_windows_of_the_step(make_shards: Make, documents: Documents) -> None:
    ramped = loader(make_shards(documents), sizes=BatchSizes.of(RAMP), objective=Objective(levels="stratified"))
    for step in (0, 12, 20):
        size = ramped.sizes.size(step)
        level = ramped.batch(step, 0, size).level[:, 0]
        assert sorted((level * size).astype(int)) == list(range(size))


def test_state_tells_another_ramp(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents)
    plain, ramped = loader(shards), loader(shards, sizes=BatchSizes.of(RAMP))
    assert ramped.check(ramped.state(4)) == 4
    with pytest.raises(ValueError, match="batch_ramp"):
        ramped.check(plain.state(4))


def test_a_ramp_goes_on_over_a_move(make_shards: Make, documents: Documents) -> None:
    old, new = make_shards(documents[: len(documents) // 2]), make_shards(documents)
    moved = MovingLoader(Windows(old, 32), [(14, Windows(new, 32))], 8, 3, Objective(), sizes=BatchSizes.of(RAMP))
    assert [len(moved.window_ids(step)) for step in (13, 14, 16, 17, 18)] == [4, 4, 4, 8, 8]
    ids = np.concatenate([moved.window_ids(step) for step in range(14, 14 + 60)])
    total = len(Windows(new, 32))
    assert len(ids) >= total and len(set(ids[:total].tolist())) == total
    rows = list(itertools.accumulate(len(moved.window_ids(step)) for step in range(18)))
    assert moved.epochs(18) == pytest.approx(rows[13] / len(Windows(old, 32)) + (rows[17] - rows[13]) / total)
