"""Other people's text without what does something to the reader's screen instead of standing on it."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Control characters but tab and line feed, marks of direction, halves of surrogate pairs."""


def plain(text: str) -> str:
    """`text` with U+FFFD for each character of CONTROL."""
    return CONTROL.sub("\ufffd", text)
