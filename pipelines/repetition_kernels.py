"""Compiled loops over numbered words: n-grams that repeat, compared exactly, whatever the collisions of their hashes.

Legend: W words of a text, V known words. `ids` int32 [W]; of every known word [V]: `lengths` in characters, `starts` of
its characters in `codes` (uint32), `hashes` (sum of (code + 1) x B^k), `powers` (B^length) and `inverses` (B^-length),
all modulo 2^64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

NONE = -1
BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 2**64)
_MIX = 0xD6E8FEB86659FD93


@njit(cache=True)
def expand(chunks: Any, bounds: Any, words: Any) -> Any:
    """The words of a sequence of chunks; those of chunk c are words[bounds[c] : bounds[c + 1]]."""
    total = 0
    for chunk in chunks:
        total += bounds[chunk + 1] - bounds[chunk]
    out = np.empty(total, np.int32)
    at = 0
    for chunk in chunks:
        for k in range(bounds[chunk], bounds[chunk + 1]):
            out[at] = words[k]
            at += 1
    return out


@njit(cache=True)
def measure(codes: Any, starts: Any, lengths: Any, base: Any, inverse: Any) -> Any:
    """Hash, power and inverse of new words, uint64 [3, n]."""
    out = np.empty((3, starts.size), np.uint64)
    one = np.uint64(1)
    for word in range(starts.size):
        value, power, back = np.uint64(0), one, one
        for k in range(starts[word], starts[word] + lengths[word]):
            value += (np.uint64(codes[k]) + one) * power
            power *= base
            back *= inverse
        out[0, word], out[1, word], out[2, word] = value, power, back
    return out


@njit(cache=True)
def _same_words(ids: Any, a: int, b: int, n: int) -> bool:
    for k in range(n):  # noqa: SIM110 - compiled
        if ids[a + k] != ids[b + k]:
            return False
    return True


@njit(cache=True)
def _same_characters(ids: Any, a: int, b: int, total: int, lengths: Any, starts: Any, codes: Any) -> bool:
    p = q = 0
    for _ in range(total):
        while p == lengths[ids[a]]:
            a, p = a + 1, 0
        while q == lengths[ids[b]]:
            b, q = b + 1, 0
        if codes[starts[ids[a]] + p] != codes[starts[ids[b]] + q]:
            return False
        p, q = p + 1, q + 1
    return True


@njit(cache=True)
def broken_rule(
    ids: Any,
    lengths: Any,
    starts: Any,
    codes: Any,
    hashes: Any,
    powers: Any,
    inverses: Any,
    characters: int,
    top_sizes: Any,
    top_limits: Any,
    dup_sizes: Any,
    dup_limits: Any,
    mix: Any,
) -> int:
    """The first rule that is broken: its index among the top n-grams, then those of duplicates; -1 for none.

    Of the most frequent n-gram (the first among equals) joined by blanks, and of n-grams without blanks that were met
    before, counted without overlap: their characters over `characters` of the text.
    """
    n = ids.size
    prefix, back, ends = np.zeros(n + 1, np.uint64), np.empty(n + 1, np.uint64), np.zeros(n + 1, np.int64)
    power = np.uint64(1)
    back[0] = power
    for i in range(n):
        word = ids[i]
        prefix[i + 1] = prefix[i] + hashes[word] * power
        power *= powers[word]
        back[i + 1] = back[i] * inverses[word]
        ends[i + 1] = ends[i] + lengths[word]
    slots = 16
    while slots < 2 * n:
        slots *= 2
    mask = slots - 1
    stamp, first, count = np.zeros(slots, np.int32), np.empty(slots, np.int32), np.empty(slots, np.int32)
    key = np.empty(slots, np.uint64)
    turn = 0
    for rule in range(top_sizes.size):
        size = top_sizes[rule]
        if n < size:
            continue
        turn += 1
        best, best_first = 0, n
        for i in range(n - size + 1):
            value = (prefix[i + size] - prefix[i]) * back[i]
            slot = np.int64((value * mix) >> np.uint64(33)) & mask
            while stamp[slot] == turn and not (key[slot] == value and _same_words(ids, first[slot], i, size)):
                slot = (slot + 1) & mask
            if stamp[slot] == turn:
                count[slot] += 1
            else:
                stamp[slot], key[slot], first[slot], count[slot] = turn, value, i, 1
            if count[slot] > best or (count[slot] == best and first[slot] < best_first):
                best, best_first = count[slot], first[slot]
        if (ends[best_first + size] - ends[best_first] + size - 1) * best / characters > top_limits[rule]:
            return rule
    for rule in range(dup_sizes.size):
        size = dup_sizes[rule]
        turn += 1
        repeated = i = 0
        while i < n - size + 1:
            value = (prefix[i + size] - prefix[i]) * back[i]
            total = ends[i + size] - ends[i]
            slot = np.int64((value * mix) >> np.uint64(33)) & mask
            found = False
            while stamp[slot] == turn and not found:
                j = first[slot]
                found = (
                    key[slot] == value
                    and ends[j + size] - ends[j] == total
                    and (_same_words(ids, j, i, size) or _same_characters(ids, j, i, total, lengths, starts, codes))
                )
                if not found:
                    slot = (slot + 1) & mask
            if found:
                repeated += total
                i += size
            else:
                stamp[slot], key[slot], first[slot] = turn, value, i
                i += 1
        if repeated / characters > dup_limits[rule]:
            return top_sizes.size + rule
    return NONE


MIX = np.uint64(_MIX)
