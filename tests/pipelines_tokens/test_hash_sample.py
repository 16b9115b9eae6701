"""Choosing by hash depends on what there is, not on its order."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pipelines.sample import HashSample, hash64, held_out


def sample(items: list[tuple[str, int]], limit: int) -> list[tuple[str, int]]:
    chosen: HashSample[tuple[str, int]] = HashSample(limit, "test")
    for key, size in items:
        chosen.add(key, (key, size), size)
    assert chosen.size == sum(size for _, size in chosen.items())
    assert len(chosen) == len(chosen.items())
    return chosen.items()


@given(st.dictionaries(st.text(max_size=4), st.integers(1, 10)), st.integers(1, 40), st.randoms())
def test_the_longest_prefix_by_hash_that_fits(sizes: dict[str, int], limit: int, random) -> None:
    ordered = sorted(sizes.items(), key=lambda item: hash64(item[0], "test"))
    expected = []
    for item in ordered:
        if expected and sum(size for _, size in expected) + item[1] > limit:
            break
        expected.append(item)
    shuffled = list(sizes.items()) * 2
    random.shuffle(shuffled)
    assert sample(shuffled, limit) == expected


def test_what_follows_a_dropped_item_is_never_taken() -> None:
    keys = sorted("abcdefgh", key=lambda key: hash64(key, "test"))
    items = [(keys[0], 5), (keys[1], 8), (keys[2], 1)]
    assert sample(items, 10) == items[:1]
    assert sample(items[::-1], 10) == items[:1]


def test_at_least_one() -> None:
    assert sample([("a", 100)], 10) == [("a", 100)]


def test_held_out_fraction_and_nesting() -> None:
    ids = [f"document {n}" for n in range(20_000)]
    few, more = ({key for key in ids if held_out(key, fraction, 3)} for fraction in (0.02, 0.1))
    assert few < more
    for chosen, fraction in ((few, 0.02), (more, 0.1)):
        assert abs(len(chosen) / len(ids) - fraction) < 4 * math.sqrt(fraction * (1 - fraction) / len(ids))
    assert few != {key for key in ids if held_out(key, 0.02, 4)}
