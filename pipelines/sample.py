"""Choosing by hash: samples and splits that depend on what is chosen from, never on its order or on who reads it."""

from __future__ import annotations

import hashlib
import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


def hash64(key: str, salt: str) -> int:
    """64 bits that are uniform over keys, and independent between salts."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big")


def held_out(document_id: str, fraction: float, seed: int) -> bool:
    """Whether a document is for evaluation. With the same seed, a greater fraction holds out the same and more."""
    return hash64(document_id, f"held-out/{seed}") < fraction * 2**64


class HashSample(Generic[T]):
    """The items whose keys hash lowest, as many as fit into `limit`, at least one. A key counts once.

    Memory: the sample. The result does not depend on the order of adding.
    """

    def __init__(self, limit: int, salt: str) -> None:
        self._limit, self._salt = limit, salt
        self._heap: list[tuple[int, int, T]] = []  # (-hash, size, item): the highest hash on top
        self._hashes: set[int] = set()
        self._bound = 2**64  # the lowest hash that did not fit: from there on nothing is taken
        self.size = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def full(self) -> bool:
        """Whether something did not fit: what hashes higher than all that was offered changes nothing then."""
        return self._bound < 2**64

    def add(self, key: str, item: T, size: int = 1) -> None:
        """Offer an item."""
        number = hash64(key, self._salt)
        if number >= self._bound or number in self._hashes:
            return
        heapq.heappush(self._heap, (-number, size, item))
        self._hashes.add(number)
        self.size += size
        while self.size > self._limit and len(self._heap) > 1:
            highest, dropped, _ = heapq.heappop(self._heap)
            self._bound = -highest
            self._hashes.remove(-highest)
            self.size -= dropped

    def items(self) -> list[T]:
        """The sample, in the order of its hashes."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: -entry[0])]
