"""datatrove's normal form of texts to be compared: lower case, numbers as 0, no punctuation, no diacritics.

The same as `datatrove.utils.text.simplify_text` with its defaults, several times sooner: what becomes of a character
is looked up once for each different one in a text, and the plain rest is done on bytes.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION, simplify_text

_MARKS = "،٫⎖⎗⎘"  # decimal marks besides the comma and the point
_NUMBERS = re.compile(rf"[0-9]+(?:[.,{_MARKS}][0-9]+)?")
_ASCII_NUMBERS = re.compile(rb"[0-9]+(?:[.,][0-9]+)?")
_PLAIN = bytes(ord(" ") if chr(byte) in PUNCTUATION and byte < 128 else byte for byte in range(256))
_BLANKS = frozenset(c for c in PUNCTUATION if not c.isascii())
_FEW = 24  # replacements of one character each that take less time than looking at every character


def simplify(text: str) -> str:
    """The normal form of `text`."""
    text = text.lower()
    if text.isascii():
        return b" ".join(_ASCII_NUMBERS.sub(b"0", text.encode()).translate(_PLAIN).split()).decode()
    others = [character for character in set(text) if character > "\x7f"]
    if any(map(_is_digit, others)):
        return simplify_text(text)
    text = _NUMBERS.sub("0", text)
    for character in filter(_is_blank, others):
        text = text.replace(character, " ")
    text = b" ".join(text.encode(errors="surrogatepass").translate(_PLAIN).split()).decode(errors="surrogatepass")
    changed = [character for character in others if _without_marks(character) != character]
    if len(changed) > _FEW or any(map(_can_move, others)):
        text = unicodedata.normalize("NFD", text)
        changed = [character for character in set(text) if character > "\x7f" and _without_marks(character) == ""]
    for character in changed:
        text = text.replace(character, _without_marks(character))
    return text.strip()


@functools.cache
def _is_digit(character: str) -> bool:
    return NUMBERS_PATTERN.fullmatch(character) is not None


@functools.cache
def _is_blank(character: str) -> bool:
    return character in _BLANKS or character.isspace()


@functools.cache
def _without_marks(character: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", character) if unicodedata.category(c) != "Mn")


@functools.cache
def _can_move(character: str) -> bool:
    """Whether normalisation may exchange it, or a part of it that stays, with a mark beside it."""
    return any(
        unicodedata.combining(c) and unicodedata.category(c) != "Mn" for c in unicodedata.normalize("NFD", character)
    )
