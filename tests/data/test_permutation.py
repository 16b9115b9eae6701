"""The shuffle is a permutation at any size, equals its definition, and mixes."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.data.permutation import Permutation

M64 = 2**64 - 1
SIZES = sorted({*range(1, 40), *(2**k + d for k in range(2, 15) for d in (-1, 0, 1)), 1000, 12_345})


class Reference:
    """The definition in Python integers, both ways."""

    def __init__(self, size: int, seed: int, epoch: int, domain: str) -> None:
        bits = (size - 1).bit_length()
        self.size, self.low, self.high = size, bits // 2, bits - bits // 2
        digest = hashlib.shake_256(f"illada.permutation\0{domain}\0{seed}\0{epoch}".encode()).digest(64)
        self.keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(8)]

    def element(self, index: int) -> int:
        value = self.walk(index, range(8))
        while value >= self.size:
            value = self.walk(value, range(8))
        return value

    def index(self, element: int) -> int:
        value = self.walk(element, reversed(range(8)))
        while value >= self.size:
            value = self.walk(value, reversed(range(8)))
        return value

    def walk(self, value: int, rounds: object) -> int:
        high, low = value >> self.low, value & (2**self.low - 1)
        for number in rounds:
            if number % 2:
                low ^= self.mix(high ^ self.keys[number]) & (2**self.low - 1)
            else:
                high ^= self.mix(low ^ self.keys[number]) & (2**self.high - 1)
        return high << self.low | low

    @staticmethod
    def mix(z: int) -> int:
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M64
        return z ^ z >> 31


@pytest.mark.parametrize("size", SIZES)
def test_every_element_once(size: int) -> None:
    for seed, epoch in ((0, 0), (0, 1), (9, 3)):
        assert np.array_equal(np.sort(Permutation(size, seed, epoch).take(np.arange(size))), np.arange(size))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2**62),
    st.integers(0, M64),
    st.integers(0, 50),
    st.sampled_from(["train", "sft"]),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=5),
)
def test_equals_the_definition_and_its_inverse(
    size: int, seed: int, epoch: int, domain: str, places: list[float]
) -> None:
    permutation, oracle = Permutation(size, seed, epoch, domain=domain), Reference(size, seed, epoch, domain)
    for index in {0, size - 1, *(min(int(place * size), size - 1) for place in places)}:
        element = permutation[index]
        assert 0 <= element < size
        assert element == oracle.element(index)
        assert oracle.index(element) == index


@pytest.mark.parametrize("size", [1_500_000_000, 2**30, 2**30 + 1])
def test_large_sizes_are_injective_where_sampled(size: int) -> None:
    indices = np.unique(np.random.default_rng(0).integers(0, size, 200_000))
    elements = Permutation(size, 4, 2).take(indices)
    assert elements.min() >= 0 and elements.max() < size
    assert len(np.unique(elements)) == len(indices)
    halves = np.histogram(elements, bins=16, range=(0, size))[0]
    expected = len(indices) / 16
    assert ((halves - expected) ** 2 / expected).sum() < 37.7  # chi-square, 15 degrees of freedom, 0.1 %


@pytest.mark.parametrize("size", [3, 5, 8, 12])
def test_first_element_is_uniform_over_seeds(size: int) -> None:
    firsts = np.bincount([Permutation(size, seed, 0)[0] for seed in range(4000)], minlength=size)
    expected = 4000 / size
    assert ((firsts - expected) ** 2 / expected).sum() < size - 1 + 4.5 * math.sqrt(2 * (size - 1))


def test_neighbours_are_unrelated() -> None:
    size = 5000
    order = Permutation(size, 0, 0).take(np.arange(size))
    bound = 4 / math.sqrt(size)
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < bound
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < bound


def test_epochs_seeds_and_domains_differ() -> None:
    variants = [(0, 0, "train"), (0, 1, "train"), (1, 0, "train"), (0, 0, "sft")]
    orders = {Permutation(100, s, e, domain=d).take(np.arange(100)).tobytes() for s, e, d in variants}
    assert len(orders) == len(variants)


def test_shapes_and_errors() -> None:
    permutation = Permutation(10, 0, 0)
    assert permutation.take(np.arange(6).reshape(2, 3)).shape == (2, 3)
    assert permutation.take([]).shape == (0,)
    assert len(permutation) == 10
    for bad in (-1, 10):
        with pytest.raises(IndexError, match="has elements 0 to 9"):
            permutation[bad]
    for size, seed, epoch in ((0, 0, 0), (2**62 + 1, 0, 0), (5, -1, 0), (5, 0, -1)):
        with pytest.raises(ValueError):
            Permutation(size, seed, epoch)
