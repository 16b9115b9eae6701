"""Windows: every one where it should be, no copies, and an index that stays small with 45,000 shards."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from illada.data.shards import TokenShards
from illada.data.windows import Windows

Documents = list[NDArray[np.int64]]


class FakeShards:
    """Only counts: the value at position p of shard s is p."""

    fingerprint = "fake"

    def __init__(self, counts: list[int] | NDArray[np.int64]) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.touched: list[int] = []

    def values(self, shard: int) -> NDArray[np.int64]:
        self.touched.append(shard)
        return np.arange(self.counts[shard])

    def offsets(self, shard: int) -> NDArray[np.int32]:
        raise AssertionError("windows were asked for, not documents")


@pytest.mark.parametrize("length", [1, 2, 16, 100, 333])
def test_windows_are_the_token_streams(
    make_shards: Callable[..., TokenShards], documents: Documents, length: int
) -> None:
    shards = make_shards(documents)
    windows = Windows(shards, length)
    expected = [
        shards.values(i)[start : start + length]
        for i in range(len(shards))
        for start in range(0, int(shards.counts[i]) - length + 1, length)
    ]
    assert len(windows) == len(expected) > 0
    for mine, theirs in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("length", [1, 2, 16, 100, 333])
def test_cuts_are_where_documents_begin(
    make_shards: Callable[..., TokenShards], documents: Documents, length: int
) -> None:
    shards = make_shards(documents)
    windows = Windows(shards, length)
    for index in range(len(windows)):
        shard, start = windows.locate(index)
        inside = range(start + 1, start + length)
        assert windows.cuts(index).tolist() == [int(at) - start for at in shards.offsets(shard) if int(at) in inside]


def test_many_windows_at_once(make_shards: Callable[..., TokenShards], documents: Documents) -> None:
    windows = Windows(make_shards(documents), 16)
    indices = np.random.default_rng(0).integers(0, len(windows), 200)
    for some in (indices, indices[:1], indices[:0]):
        taken = windows.take(some)
        assert taken.dtype == np.int64 and taken.shape == (len(some), 16)
        for row, index in zip(taken, some.tolist(), strict=True):
            np.testing.assert_array_equal(row, windows[index])
    for wrong in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows.take(np.array([0, wrong]))


def test_windows_are_views(make_shards: Callable[..., TokenShards], documents: Documents) -> None:
    shards = make_shards(documents)
    windows = Windows(shards, 64)
    for index in (0, len(windows) // 2, len(windows) - 1):
        shard, start = windows.locate(index)
        window, values = windows[index], shards.values(shard)
        assert np.shares_memory(window, values)
        offset = window.__array_interface__["data"][0] - values.__array_interface__["data"][0]
        assert offset == start * values.itemsize
        assert not window.flags.writeable


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 20))
def test_locate(counts: list[int], length: int) -> None:
    windows = Windows(FakeShards(counts), length)
    expected = [(shard, w * length) for shard, count in enumerate(counts) for w in range(count // length)]
    assert [windows.locate(i) for i in range(len(windows))] == expected
    for bad in (-1, len(expected)):
        with pytest.raises(IndexError):
            windows.locate(bad)


def test_twelve_trillion_tokens() -> None:
    counts = np.random.default_rng(0).integers(2**28, 2**28 + 100_000, 45_000)
    shards = FakeShards(counts)
    windows = Windows(shards, 8192)
    assert windows._ends.nbytes <= 8 * 45_000
    ends = list(itertools.accumulate(int(count) // 8192 for count in counts))
    assert len(windows) == ends[-1] > 1_400_000_000
    for index in [0, len(windows) - 1, *np.random.default_rng(1).integers(0, len(windows), 2000).tolist()]:
        shard = bisect.bisect_right(ends, index)
        before = ends[shard - 1] if shard else 0
        assert windows.locate(index) == (shard, (index - before) * 8192)
    assert not shards.touched


def test_length_must_be_positive() -> None:
    with pytest.raises(ValueError, match="length 0"):
        Windows(FakeShards([5]), 0)
