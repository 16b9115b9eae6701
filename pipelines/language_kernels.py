"""Compiled: what fastText's classifier makes of a line of text, addition by addition as fastText does it.

Sources: arXiv 1607.01759 (the classifier), 1607.04606 (n-grams of characters), 1612.03651 (the compressed model); hash,
order of n-grams and precision as in fastText 0.9.2. Legend: `slots` are tables of open addressing, -1 where nothing is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

_OFFSET, _FACTOR = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a
_SIGN = np.uint32(0xFFFFFF00)  # fastText takes bytes for signed numbers
_MOST_LIKELY_ENOUGH = np.float32(math.log(1e-5))
_TINY = 1e-5


@njit(cache=True, inline="always")
def _hashed(value: Any, byte: Any) -> Any:
    wide = np.uint32(byte) | _SIGN if byte >= 128 else np.uint32(byte)
    return np.uint32((value ^ wide) * _FACTOR)


@njit(cache=True)
def hash_of(text: Any) -> Any:
    """FNV-1a of bytes [n], as fastText has it."""
    value = _OFFSET
    for byte in text:
        value = _hashed(value, byte)
    return value


@njit(cache=True, inline="always")
def _word(text: Any, first: int, end: int, value: Any, slots: Any, letters: Any, starts: Any) -> Any:
    """The number of the word text[first:end], whose hash is `value`; -1 if it is not known."""
    slot = np.int64(value) & (slots.size - 1)
    while slots[slot] >= 0:
        word = slots[slot]
        if starts[word + 1] - starts[word] == end - first:
            same = True
            for place in range(end - first):
                same = same and letters[starts[word] + place] == text[first + place]
            if same:
                return word
        slot = (slot + 1) & (slots.size - 1)
    return np.int32(-1)


@njit(cache=True, inline="always")
def _begins(text: Any, first: int, end: int, letters: Any) -> Any:
    if end - first < letters.size:
        return False
    for place in range(letters.size):  # noqa: SIM110 (compiled)
        if text[first + place] != letters[place]:
            return False
    return True


@njit(cache=True)
def sum_of_rows(
    text: Any,
    rows: Any,
    words: Any,
    letters: Any,
    starts: Any,
    kept: Any,
    ngrams: Any,
    ngram_rows: Any,
    buckets: Any,
    sizes: Any,
    label: Any,
    end_of_line: Any,
    last: int,
) -> Any:
    """The sum of the rows of all words and n-grams of a line, float32 [dimensions], and how many there are.

    Args:
        text: UTF-8, uint8; a line end is a blank.
        rows: float32 [words and n-grams, dimensions].
        words: slots of the words by their hash, int32; word i is letters[starts[i]:starts[i + 1]].
        kept: which of the `buckets` of n-grams have a row, a bit each in uint64.
        ngrams: slots of those buckets, int32, with their rows in `ngram_rows`.
        sizes: fewest and most characters of an n-gram.
        label: what labels begin with, `end_of_line`: the word that ends a line, uint8; `last` is its number.
    """
    total = np.zeros(rows.shape[1], np.float32)
    count, place, open_line = 0, 0, True
    while place < text.size and open_line:
        code = text[place]
        if code == 32 or 9 <= code <= 13 or code == 0:
            place += 1
            continue
        first, value = place, _OFFSET
        while place < text.size:
            code = text[place]
            if code == 32 or 9 <= code <= 13 or code == 0:
                break
            value = _hashed(value, code)
            place += 1
        if _begins(text, first, place, label):
            continue
        word = _word(text, first, place, value, words, letters, starts)
        if word >= 0:
            count += 1
            for k in range(total.size):
                total[k] += rows[word, k]
        if place - first == end_of_line.size and _begins(text, first, place, end_of_line):
            open_line = False
            continue
        size = place - first + 2  # with < before and > behind
        for i in range(size):
            if 0 < i < size - 1 and text[first + i - 1] & 0xC0 == 0x80:
                continue
            value, j, n = _OFFSET, i, 1
            while j < size and n <= sizes[1]:
                value = _hashed(value, 60 if j == 0 else 62 if j == size - 1 else text[first + j - 1])
                j += 1
                while j < size - 1 and text[first + j - 1] & 0xC0 == 0x80:
                    value = _hashed(value, text[first + j - 1])
                    j += 1
                if n >= sizes[0] and not (n == 1 and (i == 0 or j == size)):
                    bucket = np.int64(value % buckets)
                    if kept[bucket >> 6] >> np.uint64(bucket & 63) & np.uint64(1):
                        slot = (bucket * 0x9E3779B1 >> 13) & (ngrams.size - 1)
                        while ngrams[slot] != bucket:
                            slot = (slot + 1) & (ngrams.size - 1)
                        row = ngram_rows[slot]
                        count += 1
                        for k in range(total.size):
                            total[k] += rows[row, k]
                n += 1
    if open_line:
        count += 1
        for k in range(total.size):
            total[k] += rows[last, k]
    return total, count


@njit(cache=True)
def place_all(buckets: Any, rows: Any, ngrams: Any, ngram_rows: Any) -> None:
    """Fill the slots `ngrams` and `ngram_rows` of `sum_of_rows`."""
    for number in range(buckets.size):
        slot = (np.int64(buckets[number]) * 0x9E3779B1 >> 13) & (ngrams.size - 1)
        while ngrams[slot] >= 0:
            slot = (slot + 1) & (ngrams.size - 1)
        ngrams[slot], ngram_rows[slot] = buckets[number], rows[number]


@njit(cache=True)
def most_likely(total: Any, count: int, output: Any, children: Any) -> Any:
    """The most likely label of a hierarchical softmax, and its probability, float32.

    `output` is float32 [labels, dimensions], `children` int32 [2 labels - 1, 2] the tree, -1 for leaves: labels.
    """
    scale = np.float32(1.0 / count)
    for k in range(total.size):
        total[k] *= scale
    labels = output.shape[0]
    nodes, scores = np.empty(2 * labels, np.int32), np.empty(2 * labels, np.float32)
    nodes[0], scores[0], waiting = 2 * labels - 2, np.float32(0), 1
    found, best = np.int32(-1), np.float32(0)
    while waiting:
        waiting -= 1
        node, score = nodes[waiting], scores[waiting]
        if score < _MOST_LIKELY_ENOUGH or (found >= 0 and score < best):
            continue
        if children[node, 0] < 0:
            found, best = node, score
            continue
        value = np.float32(0)
        for k in range(total.size):
            value += output[node - labels, k] * total[k]
        right = np.float32(1.0 / np.float64(np.float32(1) + np.float32(math.exp(-value))))
        left = np.float32(1.0 - np.float64(right))
        nodes[waiting], scores[waiting] = children[node, 1], score + np.float32(math.log(np.float64(right) + _TINY))
        waiting += 1
        nodes[waiting], scores[waiting] = children[node, 0], score + np.float32(math.log(np.float64(left) + _TINY))
        waiting += 1
    return found, np.float32(math.exp(best))
