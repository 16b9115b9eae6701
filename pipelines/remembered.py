"""What the caches of a process may hold together, whatever the number of languages that have some of their own."""

from __future__ import annotations

import weakref
from typing import Protocol


class Forgetful(Protocol):
    """Has a cache."""

    def forget(self) -> None:
        """Empty it."""


class Remembered:
    """Caches that are emptied together once they hold more than `entries`, or entries of more than `characters`.

    An entry takes about 250 bytes and a character of it, with what is worked out of it, ten.
    """

    def __init__(self, entries: int, characters: int) -> None:
        self._most = entries, characters
        self._held = [0, 0]
        self._caches: weakref.WeakSet[Forgetful] = weakref.WeakSet()

    def join(self, cache: Forgetful) -> None:
        """Count `cache` as one of those; it is empty."""
        self._caches.add(cache)

    def add(self, entries: int, characters: int) -> None:
        """A cache holds so much more."""
        self._held[0] += entries
        self._held[1] += characters

    def make_room(self) -> None:
        """Empty all caches if they hold too much. What their owners have taken from them holds no longer."""
        if self._held[0] > self._most[0] or self._held[1] > self._most[1]:
            for cache in self._caches:
                cache.forget()
            self._held = [0, 0]


WORDS = Remembered(entries=300_000, characters=2**22)
"""Of words and what lies between white space, in all languages."""
