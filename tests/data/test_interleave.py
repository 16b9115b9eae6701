"""Sequences merged evenly: every row once, counts exact at the end and close to even before, any position alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.data.interleave import Interleave

MOST_OFF = 1.68  # half the sum of the reciprocal Fibonacci numbers


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 400)), min_size=1, max_size=12))
def test_every_row_once_and_evenly(lengths: list[int]) -> None:
    it, total = Interleave(lengths), sum(lengths)
    assert len(it) == total
    rows = [it[row] for row in range(total)]
    assert sorted(rows) == [(sequence, place) for sequence, length in enumerate(lengths) for place in range(length)]
    counts = [0] * len(lengths)
    for row, (sequence, place) in enumerate(rows):
        assert place == counts[sequence], "within a sequence the order is kept"
        assert it.counts(row) == counts
        counts[sequence] += 1
        off = [abs(count - (row + 1) * length / total) for count, length in zip(counts, lengths, strict=True)]
        assert max(off) <= MOST_OFF
    assert it.counts(total) == lengths


def test_lengths_that_make_the_deepest_tree() -> None:
    lengths = [1, 1]
    while len(lengths) < 17:
        lengths.append(lengths[-1] + lengths[-2])
    it, total = Interleave(lengths), sum(lengths)
    off = max(
        abs(count - row * length / total)
        for row in range(total + 1)
        for count, length in zip(it.counts(row), lengths, strict=True)
    )
    assert 0.5 < off <= MOST_OFF


class Counted(Interleave):
    """Counts the decisions made on the way to a row."""

    decisions = 0

    def _of_first(self, node: int, rows: int) -> int:
        self.decisions += 1
        return super()._of_first(node, rows)


def test_scale() -> None:
    """3 billion rows of 500 groups of very different lengths: a few steps down a tree of a thousand nodes."""
    rng = np.random.default_rng(0)
    lengths = [int(length) for length in 1 + 1e7 * rng.pareto(1.1, 500)]
    it, total = Counted(lengths), sum(lengths)
    assert total > 3e9
    assert len(it._sizes) == len(it._parts) == 2 * 500 - 1
    seen: dict[int, int] = {}
    for row in rng.integers(0, total, 300).tolist():
        it.decisions = 0
        sequence, place = it[row]
        assert 0 <= place < lengths[sequence]
        assert it.decisions <= 2 * 1.45 * np.log2(total / lengths[sequence]) + 4
        assert it.counts(row)[sequence] == place
        seen[sequence] = place
    assert len(seen) > 50


@pytest.mark.parametrize("row", [-1, 5])
def test_outside(row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of 5"):
        Interleave([2, 0, 3])[row]
    assert len(Interleave([])) == len(Interleave([0])) == 0
