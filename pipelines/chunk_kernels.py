"""The different chunks between the blanks of many texts, numbered, and texts written with each chunk replaced.

Legend: `text` uint8, many texts, of which text i is text[starts[i]:starts[i + 1]]; `numbers` int32 [chunks], the chunks
of one text after another by number, those of text i being numbers[chunks[i]:chunks[i + 1]].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from pipelines.minhash_kernels import signature, word_starts

_BLANK = ord(" ")
_END = ord("\n")
_OFFSET, _FACTOR = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a


@njit(cache=True)
def number_chunks(text: Any, starts: Any) -> Any:
    """`numbers` and `chunks` in order of first appearance, and the different chunks, an end of line after each."""
    numbers = np.empty(text.size // 2 + starts.size, dtype=np.int32)
    chunks = np.zeros(starts.size, dtype=np.int64)
    room = 1 << 12
    hashes, places = np.empty(room, np.uint64), np.empty((room, 2), np.int64)
    slots = _slots(hashes, 0)
    place, count, known = 0, 0, 0
    for i in range(starts.size - 1):
        while place < starts[i + 1]:
            place, count, known = _number(text, place, starts[i + 1], numbers, count, slots, hashes, places, known)
            if known == room:
                room *= 2
                hashes, places = np.append(hashes, hashes), np.concatenate((places, places))
                slots = _slots(hashes, known)
        chunks[i + 1] = count
    different = np.empty((places[:known, 1] - places[:known, 0]).sum() + known, dtype=np.uint8)
    at = 0
    for chunk in range(known):
        for byte in range(places[chunk, 0], places[chunk, 1]):
            different[at] = text[byte]
            at += 1
        different[at] = _END
        at += 1
    return numbers[:count], chunks, different


@njit(cache=True)
def _number(
    text: Any, place: int, end: int, numbers: Any, count: int, slots: Any, hashes: Any, places: Any, known: int
) -> Any:
    """Number the chunks of a text from `place` on until it or the room for new ones ends: place, count, known."""
    while place < end and known < hashes.size:
        if text[place] == _BLANK:
            place += 1
            continue
        first, value = place, _OFFSET
        while place < end and text[place] != _BLANK:
            value = (value ^ np.uint64(text[place])) * _FACTOR
            place += 1
        value ^= value >> np.uint64(32)
        slot = np.int64(value & np.uint64(slots.size - 1))
        while slots[slot] >= 0 and not (
            hashes[slots[slot]] == value and _equal(text, places[slots[slot]], first, place)
        ):
            slot = (slot + 1) & (slots.size - 1)
        if slots[slot] < 0:
            slots[slot] = known
            hashes[known], places[known, 0], places[known, 1] = value, first, place
            known += 1
        numbers[count] = slots[slot]
        count += 1
    return place, count, known


@njit(cache=True)
def _slots(hashes: Any, known: int) -> Any:
    """The hash table of `known` chunks: in each slot a number or -1, twice as many as there is room for."""
    slots = np.full(2 * hashes.size, -1, dtype=np.int32)
    for chunk in range(known):
        slot = np.int64(hashes[chunk] & np.uint64(slots.size - 1))
        while slots[slot] >= 0:
            slot = (slot + 1) & (slots.size - 1)
        slots[slot] = chunk
    return slots


@njit(cache=True, inline="always")
def _equal(text: Any, known: Any, first: int, end: int) -> Any:
    if known[1] - known[0] != end - first:
        return False
    for byte in range(end - first):  # noqa: SIM110 (compiled)
        if text[known[0] + byte] != text[first + byte]:
            return False
    return True


@njit(cache=True)
def signatures(numbers: Any, chunks: Any, words: Any, parts: Any, ngram: int, a: Any, b: Any) -> Any:
    """Which texts have a shingle of `ngram` words, and `pipelines.minhash_kernels.signature` of those [texts, len(a)].

    The words of chunk c, joined by blanks, are words[parts[c]:parts[c + 1] - 1].
    """
    comparable = np.zeros(chunks.size - 1, dtype=np.bool_)
    found = np.zeros((chunks.size - 1, a.size), dtype=np.uint64)
    room = np.empty(1 << 16, dtype=np.uint8)
    for i in range(chunks.size - 1):
        size = 0
        for at in range(chunks[i], chunks[i + 1]):
            size += parts[numbers[at] + 1] - parts[numbers[at]]
        if size > room.size:
            room = np.empty(2 * size, dtype=np.uint8)
        size, count = 0, 0
        for at in range(chunks[i], chunks[i + 1]):
            for place in range(parts[numbers[at]], parts[numbers[at] + 1] - 1):
                count += words[place] == _BLANK
                room[size] = words[place]
                size += 1
            room[size] = _BLANK
            size += 1
            count += 1
        if count >= ngram:
            text = room[: size - 1]
            comparable[i] = True
            found[i] = signature(text, word_starts(text, count), ngram, a, b)
    return comparable, found
