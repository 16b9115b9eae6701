"""datatrove's normal form of texts to be compared: lower case, numbers as 0, no punctuation, no diacritics.

The same as `datatrove.utils.text.simplify_text` with its defaults, many times sooner: what becomes of a character is
worked out once and then looked up by compiled loops. Texts with one whose fate depends on its neighbours go through
datatrove's own.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION, simplify_text

from pipelines.simplify_kernels import BLANK, CHARACTERS, DIGIT, HARD, PLAIN, normal_forms, unknown

_MARKS = ".,،٫⎖⎗⎘"  # between the digits of a number
_FINAL = "\u03a3"  # a capital sigma has another small letter at the end of a word
_PUNCTUATION = frozenset(PUNCTUATION)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


def simplify(text: str) -> str:
    """The normal form of `text`."""
    data = text.encode(errors="surrogatepass")
    form, _ = simplify_all(np.frombuffer(data, dtype=np.uint8), np.zeros(1, np.int64), np.array([len(data)]))
    return form.tobytes().decode(errors="surrogatepass").strip()


class _Table:
    """What becomes of each character met so far; see `pipelines.simplify_kernels`."""

    def __init__(self) -> None:
        self._rules = np.zeros(CHARACTERS, dtype=np.int32)
        self._kinds, self._marks, self._pieces = [PLAIN], [False], [b""]
        self._growth = 1
        self._pack()

    def forms(self, data: Bytes, begins: Ints, ends: Ints) -> tuple[Bytes, Ints, npt.NDArray[np.bool_]]:
        """Normal forms, where each begins, and which texts have none because the table cannot tell."""
        if len(new := unknown(data, begins, ends, self._rules)):
            self._add(new)
        out = np.empty(int((ends - begins).sum()) * self._growth, dtype=np.uint8)
        starts, hard = normal_forms(data, begins, ends, self._rules, *self._packed, out)
        return out[: starts[-1]], starts, hard

    def _add(self, new: Ints) -> None:
        rows = np.arange(len(self._kinds), len(self._kinds) + len(new))
        for character in map(chr, new.tolist()):
            kind, piece = _rule(character)
            self._kinds.append(kind)
            self._marks.append(character in _MARKS)
            self._pieces.append(piece)
            size = len(character.encode(errors="surrogatepass"))
            self._growth = max(self._growth, -(-len(piece) // size))
        self._pack()
        self._rules[new] = rows

    def _pack(self) -> None:
        kinds, marks = np.array(self._kinds, dtype=np.int8), np.array(self._marks, dtype=np.bool_)
        parts = np.cumsum([0, *map(len, self._pieces)], dtype=np.int64)
        self._packed = kinds, marks, parts, np.frombuffer(b"".join(self._pieces), dtype=np.uint8)


_TABLE = _Table()


def simplify_all(data: Bytes, begins: Ints, ends: Ints) -> tuple[Bytes, Ints]:
    """The normal forms of many texts one after another, and where each begins in them [texts + 1].

    Text i is the UTF-8 in data[begins[i]:ends[i]]. A form may have blanks at its end that `simplify` would strip.
    """
    forms, starts, hard = _TABLE.forms(data, begins, ends)
    if not hard.any():
        return forms, starts
    texts = [forms[starts[i] : starts[i + 1]].tobytes() for i in range(len(begins))]
    for i in np.flatnonzero(hard):
        text = data[begins[i] : ends[i]].tobytes().decode(errors="surrogatepass")
        texts[i] = (simplify(text.lower()) if _FINAL in text else simplify_text(text)).encode(errors="surrogatepass")
    return np.frombuffer(b"".join(texts), dtype=np.uint8), np.cumsum([0, *map(len, texts)], dtype=np.int64)


def _rule(character: str) -> tuple[int, bytes]:
    """The kind of a character and what takes its place."""
    if NUMBERS_PATTERN.fullmatch(character):
        return DIGIT, b"0"
    lower = character.lower()
    if all(c in _PUNCTUATION or c.isspace() for c in lower):
        return BLANK, b""
    parts = unicodedata.normalize("NFD", lower)
    left = "".join(c for c in parts if unicodedata.category(c) != "Mn")
    # normalisation may exchange a part that stays with a mark beside it
    moving = any(unicodedata.combining(c) for c in left)
    return HARD if moving or character == _FINAL else PLAIN, left.encode(errors="surrogatepass")
