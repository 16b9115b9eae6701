"""Compiled passes over a page reduced to minimal HTML: its blocks, what can be measured of them, and a score for each.

Input is what resiliparse writes as `minimal_html`: a block a line, tags h1 to h6, p, ul, ol, li, pre, br and a, and no
`<` that is not of a tag. Arrays: `codes` are code points, uint32 [characters]; `kinds` is a table from code point to
kind, uint8; blocks are half-open ranges of the text without tags.
"""

from __future__ import annotations

import numpy as np
from numba import njit

OWN = 18
"""Features of a block by itself."""
PLAIN = OWN - 1
"""The feature that is the logarithm of one plus the characters of text that is no link."""
PAGE = 12
"""Features of its place in the page."""
AROUND = 4
"""How many blocks before and after lend their own features."""
FEATURES = OWN * (1 + 2 * AROUND) + PAGE

SPACE, DIGIT, UPPER, STOP, COMMA, MARK = 1, 2, 3, 4, 5, 6
_LONG = 100  # characters of text that is no link: a paragraph


@njit(cache=True)
def read_blocks(codes, kinds):  # type: ignore[no-untyped-def]
    """Text without tags, uint32; start and end of each block and line breaks before it, int64 [blocks]; own features.

    Those are float32 [blocks, OWN].
    """
    size = codes.size
    text = np.empty(size + 1, np.uint32)
    starts, ends, gaps = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    own = np.zeros((64, OWN), np.float32)
    count = written = gap = 0
    pre = link = False
    block = 0  # 1 to 6: a heading; 7: p; 8: li; 9: pre
    start = position = 0
    chars = linked = links = spaces = digits = uppers = stops = commas = marks = 0
    last = 0
    while position <= size:
        code = codes[position] if position < size else 10
        if code == 60 and position < size:  # <
            position += 1
            closing = position < size and codes[position] == 47
            if closing:
                position += 1
            first = codes[position] if position < size else 0
            second = codes[position + 1] if position + 1 < size else 0
            while position < size and codes[position] != 62:
                if codes[position] == 34:  # a quoted value
                    position += 1
                    while position < size and codes[position] != 34:
                        position += 1
                position += 1
            position = min(position + 1, size)
            if first == 97:  # a
                link = not closing
                links += not closing
            elif first == 112 and second == 114:  # pre
                pre = not closing
                block = 9
            elif first == 112 and not closing:
                block = 7
            elif first == 108 and not closing:  # li
                block = 8
            elif first == 104 and not closing and 49 <= second <= 54:
                block = second - 48
            elif first == 98 and chars:  # br
                written -= written > start and text[written - 1] == 32
                text[written] = 10
                written += 1
                last = 1
            continue
        position += 1
        if code == 10 and (not pre or position > size):
            if chars:
                while written > start and kinds[min(text[written - 1], kinds.size - 1)] == SPACE:
                    written -= 1
                if count == own.shape[0]:
                    larger = np.zeros((2 * count, OWN), np.float32)
                    larger[:count] = own
                    own = larger
                starts[count], ends[count], gaps[count] = start, written, gap
                row = own[count]
                row[0] = np.log1p(chars)
                row[1] = linked / chars
                row[2] = np.log1p(links)
                row[3] = spaces / chars
                row[4] = digits / chars
                row[5] = uppers / chars
                row[6] = np.log1p(stops)
                row[7] = np.log1p(commas)
                row[8] = kinds[min(text[written - 1], kinds.size - 1)] == STOP
                row[9] = block == 1
                row[10] = 2 <= block <= 6
                row[11] = block == 7
                row[12] = block == 8
                row[13] = block == 9
                row[14] = marks > 0
                row[15] = stops / chars
                row[16] = gap > 1
                row[PLAIN] = np.log1p(chars - linked)
                count += 1
                gap = 0
            gap += 1
            start = written
            block = 9 if pre else 0
            last = 1
            chars = linked = links = spaces = digits = uppers = stops = commas = marks = 0
            continue
        kind = kinds[min(code, kinds.size - 1)]
        if kind == SPACE:
            if pre and (chars or code != 10):
                text[written] = code
                written += 1
            elif not pre and last != SPACE and chars:
                text[written] = 32
                written += 1
            spaces += last != SPACE and chars > 0
        else:
            text[written] = code
            written += 1
            chars += 1
            linked += link
            digits += kind == DIGIT
            uppers += kind == UPPER
            stops += kind == STOP
            commas += kind == COMMA
            marks += kind == MARK
        last = kind
    return text[:written], starts[:count], ends[:count], gaps[:count], own[:count]


@njit(cache=True)
def features(own):  # type: ignore[no-untyped-def]
    """All features, float32 [blocks, FEATURES], from those of the blocks by themselves."""
    count = own.shape[0]
    table = np.zeros((count, FEATURES), np.float32)
    plain = np.expm1(own[:, PLAIN].astype(np.float64))
    total = plain.sum() + 1
    longest = plain.max() + 1 if count else 1.0
    every = np.expm1(own[:, 0].astype(np.float64)).sum() + 1
    before = 0.0
    since_long = since_title = 50.0
    seen_title = 0.0
    for i in range(count):
        for j in range(-AROUND, AROUND + 1):
            if 0 <= i + j < count:
                table[i, OWN * (j + AROUND) : OWN * (j + AROUND + 1)] = own[i + j]
        place = table[i, OWN * (1 + 2 * AROUND) :]
        if own[i, 9] > 0:
            seen_title = 1.0
        if own[i, 9] > 0 or own[i, 10] > 0:
            since_title = 0.0
        place[0] = i / count
        place[1] = before / total
        place[2] = np.log1p(plain[i]) - np.log(longest)
        place[3] = np.log1p(count)
        place[4] = np.log(total)
        place[5] = 1 - total / every
        place[6] = np.log1p(since_long)
        place[8] = np.log1p(since_title)
        place[9] = seen_title
        near = 0.0
        for j in range(max(0, i - 5), min(count, i + 6)):
            near += plain[j]
        place[10] = np.log1p(near)
        place[11] = near / total
        before += plain[i]
        since_long = 0.0 if plain[i] > _LONG else min(since_long + 1, 50.0)
        since_title = min(since_title + 1, 50.0)
    until_long = 50.0
    for i in range(count - 1, -1, -1):
        table[i, OWN * (1 + 2 * AROUND) + 7] = np.log1p(until_long)
        until_long = 0.0 if plain[i] > _LONG else min(until_long + 1, 50.0)
    return table


@njit(cache=True)
def scores(table, first, first_bias, second, second_bias):  # type: ignore[no-untyped-def]
    """Logit of each block, float32 [blocks], by a network of one hidden layer.

    Its weights: [FEATURES, hidden], [hidden], [hidden], a scalar.
    """
    count, hidden = table.shape[0], first.shape[1]
    out = np.empty(count, np.float32)
    sums = np.empty(hidden, np.float32)
    for i in range(count):
        sums[:] = first_bias
        for j in range(table.shape[1]):
            value = table[i, j]
            if value != 0:
                for k in range(hidden):
                    sums[k] += value * first[j, k]
        score = second_bias
        for k in range(hidden):
            score += max(sums[k], np.float32(0)) * second[k]
        out[i] = score
    return out


@njit(cache=True)
def join(text, starts, ends, gaps, keep):  # type: ignore[no-untyped-def]
    """The kept blocks as one text, uint32: a line break between neighbours, two where the page had more."""
    out = np.empty(text.size + 2 * starts.size, np.uint32)
    written = gap = 0
    for i in range(starts.size):
        gap = max(gap, min(gaps[i], 2))
        if keep[i]:
            if written:
                for _ in range(gap):
                    out[written] = 10
                    written += 1
            size = ends[i] - starts[i]
            out[written : written + size] = text[starts[i] : ends[i]]
            written += size
            gap = 0
    return out[:written]
