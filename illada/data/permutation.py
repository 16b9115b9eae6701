"""A stateless shuffle: the i-th element of a seeded permutation of [0, size) without ever storing the permutation.

An (unbalanced) Feistel network permutes [0, 2**bits), the smallest such range holding `size`; an element that falls
outside is sent through again until it falls inside ("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002), fewer than two passes on average. Memory is constant at any size.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 8


class Permutation:
    """The permutation of [0, size) that belongs to (seed, epoch, domain).

    Raises:
        ValueError: a size below 1 or above 2**62, or a negative seed or epoch.
    """

    def __init__(self, size: int, seed: int, epoch: int, *, domain: str = "train") -> None:
        if not 1 <= size <= 2**62:
            raise ValueError(f"size {size}: a permutation needs 1 to 2**62 elements")
        if seed < 0 or epoch < 0:
            raise ValueError(f"seed {seed} and epoch {epoch} must not be negative")
        self.size = size
        bits = (size - 1).bit_length()
        self._low_bits = np.uint64(bits // 2)
        self._low_mask = np.uint64(2 ** (bits // 2) - 1)
        self._high_mask = np.uint64(2 ** (bits - bits // 2) - 1)
        digest = hashlib.shake_256(f"illada.permutation\0{domain}\0{seed}\0{epoch}".encode()).digest(8 * _ROUNDS)
        self._keys = [np.uint64(int.from_bytes(digest[8 * i : 8 * i + 8], "little")) for i in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        """Element `index`, which must be in [0, size) (IndexError otherwise)."""
        return int(self.take([index])[0])

    def take(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Elements at `indices` (any shape, each in [0, size); IndexError otherwise)."""
        index = np.asarray(indices, dtype=np.int64)
        if index.size and not (index.min() >= 0 and index.max() < self.size):
            raise IndexError(f"index out of range: a permutation of {self.size} has elements 0 to {self.size - 1}")
        values = self._scramble(index.astype(np.uint64).ravel())
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._scramble(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64).reshape(index.shape)

    def _scramble(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The Feistel network: each half in turn is xor-ed with a keyed hash of the other."""
        high, low = values >> self._low_bits, values & self._low_mask
        for round_, key in enumerate(self._keys):
            if round_ % 2:
                low = low ^ (_mix(high ^ key) & self._low_mask)
            else:
                high = high ^ (_mix(low ^ key) & self._high_mask)
        return (high << self._low_bits) | low


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 64-bit finaliser of SplitMix (Steele, Lea and Flood, OOPSLA 2014); arithmetic is modulo 2**64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
