"""Hashes of all windows of a text, and the least of the hashes inside each: compiled loops.

A hash is a polynomial in the window's bytes, modulo the prime 2^61 - 1, so that it follows from its neighbour's (Karp
and Rabin, 1987).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_PRIME = np.uint64((1 << 61) - 1)
_LOW_31, _LOW_30 = np.uint64((1 << 31) - 1), np.uint64((1 << 30) - 1)
_1, _30, _31, _61 = np.uint64(1), np.uint64(30), np.uint64(31), np.uint64(61)


@njit(cache=True)
def window_hashes(text: Any, size: int, base: Any) -> Any:
    """Of each window of `size` bytes of `text` (uint8), a sum of powers of `base` (uint64): uint64 [n - size + 1]."""
    hashes = np.empty(max(text.size - size + 1, 0), dtype=np.uint64)
    if not hashes.size:
        return hashes
    power, value = _1, np.uint64(0)
    for place in range(size):
        value = _remainder(_product(value, base) + np.uint64(text[place]))
        power = _product(power, base)
    hashes[0] = value
    for place in range(hashes.size - 1):
        leaving = _PRIME - _product(np.uint64(text[place]), power)
        value = _remainder(_product(value, base) + np.uint64(text[place + size]) + leaving)
        hashes[place + 1] = value
    return hashes


@njit(cache=True)
def least_within(hashes: Any, size: int) -> Any:
    """The least of each `size` hashes in a row: uint64 [n - size + 1]."""
    least = np.empty(max(hashes.size - size + 1, 0), dtype=np.uint64)
    waiting = np.empty(hashes.size, dtype=np.int64)  # places of hashes that no later one so far is below, ascending
    first = last = 0
    for place in range(hashes.size):
        while last > first and hashes[waiting[last - 1]] >= hashes[place]:
            last -= 1
        waiting[last] = place
        last += 1
        if waiting[first] <= place - size:
            first += 1
        if place >= size - 1:
            least[place - size + 1] = hashes[waiting[first]]
    return least


@njit(cache=True)
def covered(windows: Any, size: int) -> Any:
    """Which bytes lie in a window of `size` that begins at one of the places marked in `windows`: bool [n]."""
    inside = np.zeros(windows.size, dtype=np.bool_)
    left = 0
    for place in range(windows.size):
        left = size if windows[place] else left - 1
        inside[place] = left > 0
    return inside


@njit(cache=True, inline="always")
def _remainder(value: Any) -> Any:
    value = (value & _PRIME) + (value >> _61)
    return value - _PRIME if value >= _PRIME else value


@njit(cache=True, inline="always")
def _product(a: Any, b: Any) -> Any:
    """a b mod 2^61 - 1 of numbers below it, in words of 64 bits."""
    a_high, a_low, b_high, b_low = a >> _31, a & _LOW_31, b >> _31, b & _LOW_31
    middle = a_low * b_high + a_high * b_low
    return _remainder(a_high * b_high * np.uint64(2) + (middle >> _30) + ((middle & _LOW_30) << _31) + a_low * b_low)
