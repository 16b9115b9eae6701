"""Suffix arrays by induced sorting (SA-IS: Nong, Zhang, Chan, DCC 2009), and repeated windows of a text by them.

Linear in time. For n bytes: 4n for the suffix array, and about 15n more while it is built.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]


def suffix_array(text: Bytes) -> Ints:
    """Where the suffixes of `text` [n < 2^31] begin, in ascending order of the suffixes."""
    return _sort(text, 255)


def first_windows(text: Bytes, ends: npt.NDArray[np.int64], size: int) -> Ints:
    """For each place the first one with the same `size` bytes, -1 where those would reach beyond their document [n].

    Documents lie one after another in `text` [n]; `ends` has the end of each.
    """
    if not len(text):
        return np.empty(0, dtype=np.int32)
    first: Ints = _first_windows(text, suffix_array(text), _inside(ends, size), size)
    return first


def _sort(values: Bytes | Ints, most: int) -> Ints:
    """The suffix array of `values`, from 0 to `most`."""
    if len(values) < 2:
        return np.arange(len(values), dtype=np.int32)
    smaller, large, small = _classes(values, most)
    starts = (np.flatnonzero(smaller[1:] & ~smaller[:-1]) + 1).astype(np.int32)
    order = _induce(values, smaller, large, small, starts)
    if not len(starts):
        return order
    number = np.full(len(values), -1, dtype=np.int32)
    number[starts] = np.arange(len(starts), dtype=np.int32)
    names, last = _name(values, order[number[order] >= 0], starts, number)
    del order, number
    return _induce(values, smaller, large, small, starts[_sort(names, last)])


@njit(cache=True)
def _classes(values: Any, most: int) -> Any:
    """Which suffixes are smaller than the next one (S-type), and where the L- and S-type ones of each value begin."""
    smaller = np.zeros(values.size, dtype=np.bool_)
    large, small = np.zeros(most + 2, dtype=np.int32), np.zeros(most + 2, dtype=np.int32)
    small[values[-1]] += 1
    for i in range(values.size - 2, -1, -1):
        smaller[i] = values[i] < values[i + 1] or (values[i] == values[i + 1] and smaller[i + 1])
        if smaller[i]:
            large[values[i] + 1] += 1
        else:
            small[values[i]] += 1
    for value in range(most + 1):
        small[value] += large[value]
        large[value + 1] += small[value]
    return smaller, large, small


@njit(cache=True)
def _induce(values: Any, smaller: Any, large: Any, small: Any, starts: Any) -> Any:
    """All suffixes in order, from the leftmost S-type ones `starts` in theirs."""
    order = np.full(values.size, -1, dtype=np.int32)
    free = small.copy()
    for start in starts:
        order[free[values[start]]] = start
        free[values[start]] += 1
    free = large.copy()
    last = values.size - 1
    order[free[values[last]]] = last
    free[values[last]] += 1
    for i in range(values.size):
        before = order[i] - 1
        if before >= 0 and not smaller[before]:
            order[free[values[before]]] = before
            free[values[before]] += 1
    free = large.copy()
    for i in range(values.size - 1, -1, -1):
        before = order[i] - 1
        if before >= 0 and smaller[before]:
            free[values[before] + 1] -= 1
            order[free[values[before] + 1]] = before
    return order


@njit(cache=True)
def _name(values: Any, ordered: Any, starts: Any, number: Any) -> Any:
    """A name for the piece of text from each of `starts` to the next, in the order of the pieces; and the last name."""
    names = np.zeros(starts.size, dtype=np.int32)
    name = 0
    for i in range(1, ordered.size):
        a, b = ordered[i - 1], ordered[i]
        end_a = starts[number[a] + 1] if number[a] + 1 < starts.size else values.size
        end_b = starts[number[b] + 1] if number[b] + 1 < starts.size else values.size
        same = end_a - a == end_b - b
        if same:
            while a < end_a and values[a] == values[b]:
                a += 1
                b += 1
            same = b < values.size and a < values.size and values[a] == values[b]
        name += not same
        names[number[ordered[i]]] = name
    return names, name


@njit(cache=True)
def _inside(ends: Any, size: int) -> Any:
    """Where `size` bytes lie within one document."""
    inside = np.zeros(ends[-1], dtype=np.bool_)
    start = 0
    for end in ends:
        for place in range(start, end - size + 1):
            inside[place] = True
        start = end
    return inside


@njit(cache=True)
def _first_windows(text: Any, order: Any, inside: Any, size: int) -> Any:
    before = np.full(text.size, -1, dtype=np.int32)
    for i in range(1, text.size):
        before[order[i]] = order[i - 1]
    common = 0  # longest common prefix with the suffix before it (Kasai et al., 2001, in the text's order)
    for place in range(text.size):
        other = before[place]
        if other < 0:
            common = 0
            continue
        most = text.size - max(place, other)
        while common < most and text[place + common] == text[other + common]:
            common += 1
        if common < size:
            before[place] = -1
        common = max(common - 1, 0)
    first = np.full(text.size, -1, dtype=np.int32)
    begin = 0
    while begin < text.size:
        end, least = begin, text.size
        while end == begin or (end < text.size and before[order[end]] >= 0):
            if inside[order[end]]:
                least = min(least, order[end])
            end += 1
        for i in range(begin, end):
            if inside[order[i]]:
                first[order[i]] = least
        begin = end
    return first
