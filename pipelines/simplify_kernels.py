"""Texts to their normal forms by a table of characters, compiled.

Legend: `text` uint8, UTF-8 of many texts, of which text i is text[begins[i]:ends[i]]; `rules` int32 [`CHARACTERS`],
what becomes of each character: 0 where nobody has said yet, else its row in `kinds`, `marks`, and in `parts`: the bytes
that take its place are bytes[parts[row]:parts[row + 1]].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

CHARACTERS = 1 << 21
"""More than there are: what four bytes of UTF-8 can say."""
PLAIN, BLANK, DIGIT, HARD = range(4)


@njit(cache=True, inline="always")
def _character(text: Any, place: int) -> Any:
    """The number of the character that begins at `place`, and where the next one begins."""
    byte = np.int64(text[place])
    if byte < 0x80:
        return byte, place + 1
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | (text[place + 1] & 0x3F), place + 2
    if byte < 0xF0:
        return (byte & 0xF) << 12 | (text[place + 1] & 0x3F) << 6 | (text[place + 2] & 0x3F), place + 3
    high = (byte & 7) << 18 | (text[place + 1] & 0x3F) << 12
    return high | (text[place + 2] & 0x3F) << 6 | (text[place + 3] & 0x3F), place + 4


@njit(cache=True)
def unknown(text: Any, begins: Any, ends: Any, rules: Any) -> Any:
    """The characters of the texts that have no rule, each once."""
    found = []
    for i in range(begins.size):
        place = begins[i]
        while place < ends[i]:
            character, place = _character(text, place)
            if rules[character] == 0:
                rules[character] = -1
                found.append(character)
    for character in found:
        rules[character] = 0
    return np.array(found, dtype=np.int64)


@njit(cache=True)
def normal_forms(
    text: Any, begins: Any, ends: Any, rules: Any, kinds: Any, marks: Any, parts: Any, pieces: Any, out: Any
) -> Any:
    """Write the normal forms to `out` one after another; where each begins in it [texts + 1], and which are `HARD`.

    Of those nothing is written. A number, with one of `marks` and more digits or without, is written as 0.
    """
    starts = np.zeros(begins.size + 1, dtype=np.int64)
    hard = np.zeros(begins.size, dtype=np.bool_)
    size = 0
    for i in range(begins.size):
        place, end, first = begins[i], ends[i], size
        apart, words = True, 0
        while place < end:
            character, place = _character(text, place)
            rule = rules[character]
            kind = kinds[rule]
            if kind == BLANK:
                apart = True
                continue
            if kind == HARD:
                hard[i], size = True, first
                break
            if apart:
                if words:
                    out[size] = ord(" ")
                    size += 1
                apart, words = False, words + 1
            if kind == DIGIT:
                place = _digits(text, place, end, rules, kinds)
                if place < end:
                    mark, after = _character(text, place)
                    if marks[rules[mark]] and after < end:
                        digit, after = _character(text, after)
                        if kinds[rules[digit]] == DIGIT:
                            place = _digits(text, after, end, rules, kinds)
            for at in range(parts[rule], parts[rule + 1]):
                out[size] = pieces[at]
                size += 1
        starts[i + 1] = size
    return starts, hard


@njit(cache=True, inline="always")
def _digits(text: Any, place: int, end: int, rules: Any, kinds: Any) -> Any:
    """Where the digits end that may begin at `place`."""
    while place < end:
        character, after = _character(text, place)
        if kinds[rules[character]] != DIGIT:
            break
        place = after
    return place
