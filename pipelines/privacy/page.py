"""A text beside its shape, in which what has digits is found by literal prefixes, at the speed of a memory scan."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]
"""Where something is in a text: [start, end)."""


def _classes() -> bytes:
    table = bytearray(range(256))
    for kind, characters in ((b"0", b"0123456789"), (b"A", bytes(range(65, 91))), (b"a", bytes(range(97, 123)))):
        for character in characters:
            table[character] = kind[0]
    table[0xA0] = ord(" ")  # no-break space
    return bytes(table)


_TABLE = _classes()


@dataclass(frozen=True, slots=True)
class Page:
    """`shape` has a byte for each character of `text`: 0 a digit, a and A letters, ? what Latin-1 does not have."""

    text: str
    shape: bytes

    @classmethod
    def of(cls, text: str) -> Page:
        """The page of a text."""
        return cls(text, text.encode("latin-1", "replace").translate(_TABLE))
