"""The inner loop of MinHash signatures: xxHash64 of every shingle and the least of its permutations, compiled.

Legend: `text` uint8, words joined by blanks; `a`, `b` uint64, the parameters of each hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_PRIME = np.uint64((1 << 61) - 1)
_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_BLANK = ord(" ")


@njit(cache=True)
def word_starts(text: Any, words: int) -> Any:
    """Where each word of `text` begins, and where one after the last would; no word has a blank. int64 [words + 1]."""
    starts = np.zeros(words + 1, dtype=np.int64)
    word = 1
    for place in range(text.size):
        if text[place] == _BLANK:
            starts[word] = place + 1
            word += 1
    starts[word] = text.size + 1
    return starts


@njit(cache=True)
def signature(text: Any, starts: Any, ngram: int, a: Any, b: Any) -> Any:
    """The least of each hash [len(a)] over the shingles of `ngram` words, which begin at `starts` [words + 1].

    Hash i of a shingle with xxHash64 x is (a[i] x + b[i] mod 2^64) mod (2^61 - 1), as datatrove computes it.
    """
    lowest = np.full(a.size, np.uint64(0xFFFFFFFFFFFFFFFF), dtype=np.uint64)
    for first in range(starts.size - ngram):
        x = xxh64(text, starts[first], starts[first + ngram] - 1)
        for i in range(a.size):
            value = x * a[i] + b[i]
            value = (value & _PRIME) + (value >> np.uint64(61))
            value = value - _PRIME if value >= _PRIME else value
            lowest[i] = min(lowest[i], value)
    return lowest


@njit(cache=True, inline="always")
def _rotate(value: Any, bits: int) -> Any:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@njit(cache=True, inline="always")
def _read(text: Any, place: int, size: int) -> Any:
    value = np.uint64(0)
    for byte in range(size):
        value |= np.uint64(text[place + byte]) << np.uint64(8 * byte)
    return value


@njit(cache=True, inline="always")
def _round(lane: Any, value: Any) -> Any:
    return _rotate(lane + value * _P2, 31) * _P1


@njit(cache=True)
def xxh64(text: Any, place: int, end: int) -> Any:
    """xxHash64 with seed 0 of text[place:end] (github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""
    size = end - place
    if size >= 32:
        v1, v2, v3, v4 = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
        while place + 32 <= end:
            v1 = _round(v1, _read(text, place, 8))
            v2 = _round(v2, _read(text, place + 8, 8))
            v3 = _round(v3, _read(text, place + 16, 8))
            v4 = _round(v4, _read(text, place + 24, 8))
            place += 32
        value = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
        for lane in (v1, v2, v3, v4):
            value = (value ^ _round(np.uint64(0), lane)) * _P1 + _P4
    else:
        value = _P5
    value += np.uint64(size)
    while place + 8 <= end:
        value = _rotate(value ^ _round(np.uint64(0), _read(text, place, 8)), 27) * _P1 + _P4
        place += 8
    if place + 4 <= end:
        value = _rotate(value ^ (_read(text, place, 4) * _P1), 23) * _P2 + _P3
        place += 4
    while place < end:
        value = _rotate(value ^ (np.uint64(text[place]) * _P5), 11) * _P1
        place += 1
    value = (value ^ (value >> np.uint64(33))) * _P2
    value = (value ^ (value >> np.uint64(29))) * _P3
    return value ^ (value >> np.uint64(32))
