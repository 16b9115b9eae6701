"""Cutting spans out of a text so that what stays is made of whole words and characters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLANKS = b" \t\n\r"
_REACH = 64  # bytes in which the end of a word is looked for; scripts without blanks are cut between characters


def marked_spans(marks: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each run of marked places begins and ends."""
    edges = np.flatnonzero(np.diff(marks, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def whole_words(text: bytes, start: int, end: int) -> tuple[int, int]:
    """The span without the words, or else characters, of which it has a part only; perhaps empty."""
    if start and text[start - 1] not in _BLANKS:
        start = next((i for i in range(start, min(end, start + _REACH)) if text[i] in _BLANKS), start)
        while start < end and text[start] & 0xC0 == 0x80:
            start += 1
    if end < len(text) and text[end] not in _BLANKS:
        end = next((i for i in range(end, max(start, end - _REACH), -1) if text[i - 1] in _BLANKS), end)
        while end > start and text[end] & 0xC0 == 0x80:
            end -= 1
    return start, max(start, end)


def without_spans(text: bytes, spans: list[tuple[int, int]]) -> bytes:
    """What stays of `text` without `spans`, ascending ones. Of the blanks at a seam those with most line ends stay."""
    kept, at = [], 0
    for start, end in _joined(text, spans):
        begin, stop = start, end
        while begin > at and text[begin - 1] in _BLANKS:
            begin -= 1
        while stop < len(text) and text[stop] in _BLANKS:
            stop += 1
        kept.append(text[at:begin])
        if begin and stop < len(text):
            cut = text[start:end]
            inner = cut[: len(cut) - len(cut.lstrip(_BLANKS))], cut[len(cut.rstrip(_BLANKS)) :]
            blanks = (text[begin:start], *inner, text[end:stop])
            kept.append(max(blanks, key=lambda blank: (blank.count(b"\n"), len(blank) > 0)))
        at = stop
    return b"".join([*kept, text[at:]])


def _joined(text: bytes, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans, those that only blanks lie between as one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and not text[joined[-1][1] : start].strip(_BLANKS):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
