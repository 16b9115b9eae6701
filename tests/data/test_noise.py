"""Noise: against a Philox written from its paper, and against the closed forms of masked diffusion."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.data.noise import batch_noise, stratified_levels, window_noise

EPS = 1e-3
M64 = 2**64 - 1
MANY = np.arange(20_000)


def philox_4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al. 2011, section 3.3, in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & M64, (first >> 64) ^ c[3] ^ k[1], first & M64]
        k = [(k[0] + 0x9E3779B97F4A7C15) & M64, (k[1] + 0xBB67AE8584CAA73B) & M64]
    return c


def reference(seed: int, epoch: int, window: int, length: int, eps: float, split: float, domain: str):
    """The definition of the noise, one number at a time."""
    stream = int.from_bytes(hashlib.sha256(b"illada.noise\0" + domain.encode()).digest()[:8], "little")
    numbers = []
    for block in range(1, 2 + (length + 3) // 4):
        numbers += [(x >> 11) / 2**53 for x in philox_4x64_10([block, window, epoch, 0], [seed, stream])]
    cut = 1 + int(numbers[1] * (length - 1)) if numbers[0] < split and length > 1 else length
    mask, weight, level = [], [], []
    for position in range(length):
        t = numbers[2] if position < cut else numbers[3]
        p = (1 - eps) * t + eps
        masked = numbers[4 + position] < p
        mask.append(masked)
        weight.append(1 / p if masked else 0.0)
        level.append(t)
    return [0, cut, length], mask, weight, level


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, M64),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["train", "evaluate"]),
)
def test_equals_the_definition(seed: int, epoch: int, window: int, length: int, split: float, domain: str) -> None:
    noise = window_noise(seed, epoch, window, length, EPS, split, domain=domain)
    boundaries, mask, weight, level = reference(seed, epoch, window, length, EPS, split, domain)
    assert noise.boundaries.tolist() == boundaries
    assert noise.mask.tolist() == mask
    np.testing.assert_array_equal(noise.weight, np.array(weight, dtype=np.float32))
    np.testing.assert_array_equal(noise.level, np.array(level, dtype=np.float32))
    assert (noise.boundaries.dtype, noise.mask.dtype, noise.weight.dtype, noise.level.dtype) == (
        np.int32,
        np.bool_,
        np.float32,
        np.float32,
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=8), st.integers(0, 100), st.integers(1, 40))
def test_a_row_depends_on_its_window_alone(windows: list[int], epoch: int, length: int) -> None:
    batch = batch_noise(7, epoch, windows, length, EPS, 0.5)
    for row, window in enumerate(windows):
        alone = window_noise(7, epoch, window, length, EPS, 0.5)
        for name in ("boundaries", "mask", "weight", "level"):
            np.testing.assert_array_equal(getattr(batch, name)[row], getattr(alone, name))


def test_streams_differ() -> None:
    def levels(seed: int = 0, epoch: int = 0, window: int = 0, domain: str = "train") -> bytes:
        return window_noise(seed, epoch, window, 64, EPS, 0.3, domain=domain).level.tobytes()

    keys = [(s, e, w, d) for s in range(3) for e in range(3) for w in range(3) for d in ("train", "sft", "evaluate")]
    assert len({levels(*key) for key in keys}) == len(keys)


def test_a_longer_window_does_not_change_the_decisions() -> None:
    short, long = (window_noise(0, 0, 5, length, EPS, 0.0) for length in (16, 64))
    np.testing.assert_array_equal(short.mask, long.mask[:16])


def test_weights_are_the_inverse_probability() -> None:
    noise = batch_noise(1, 2, MANY[:500], 64, EPS, 0.3)
    p = (1 - EPS) * noise.level.astype(np.float64) + EPS
    np.testing.assert_allclose(noise.weight[noise.mask], 1 / p[noise.mask], rtol=1e-4)  # level is stored in float32
    assert not noise.weight[~noise.mask].any()


def test_level_is_constant_in_a_segment_and_independent_between_them() -> None:
    noise = batch_noise(1, 0, MANY, 16, EPS, 1.0)
    first, second = noise.level[:, 0], noise.level[:, -1]
    for row in range(200):
        cut = noise.boundaries[row, 1]
        assert set(noise.level[row, :cut]) == {first[row]} and set(noise.level[row, cut:]) == {second[row]}
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(len(MANY))


def test_level_is_uniform() -> None:
    level = np.sort(window_levels := batch_noise(3, 0, MANY, 2, EPS, 0.0).level[:, 0])
    grid = (np.arange(len(level)) + 0.5) / len(level)
    assert np.abs(level - grid).max() < 1.95 / math.sqrt(len(level))  # Kolmogorov-Smirnov, 0.1 %
    assert window_levels.min() >= 0 and window_levels.max() < 1


@pytest.mark.parametrize("split", [0.0, 0.3])
def test_masked_fraction_and_unit_mean_weight(split: float) -> None:
    """E[mask] = (1 - eps)/2 + eps and E[weight] = 1; a window's positions share t, so windows are the samples."""
    length = 32
    noise = batch_noise(11, 0, MANY, length, EPS, split)
    for values, expected in ((noise.mask, (1 - EPS) / 2 + EPS), (noise.weight, 1.0)):
        means = values.mean(axis=1, dtype=np.float64)
        assert abs(means.mean() - expected) < 4 * means.std() / math.sqrt(len(MANY))
    # every position alike: Var[weight] = E[1/p] - 1 = ln(1/eps)/(1 - eps) - 1
    error = math.sqrt((math.log(1 / EPS) / (1 - EPS) - 1) / len(MANY))
    assert np.abs(noise.weight.mean(axis=0, dtype=np.float64) - 1).max() < 5 * error


def test_masked_fraction_follows_the_level() -> None:
    noise = batch_noise(5, 0, MANY, 32, EPS, 0.3)
    for tenth in range(10):
        chosen = (noise.level >= tenth / 10) & (noise.level < (tenth + 1) / 10)
        p = (1 - EPS) * noise.level[chosen].astype(np.float64) + EPS
        error = math.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(noise.mask[chosen].mean() - p.mean()) < 4.5 * error


def test_split_probability_and_uniform_place() -> None:
    length = 9
    cuts = batch_noise(2, 1, MANY, length, EPS, 0.3).boundaries[:, 1]
    assert abs((cuts < length).mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(MANY))
    counts = np.bincount(cuts[cuts < length], minlength=length)
    assert counts[0] == 0
    expected = counts.sum() / (length - 1)
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 degrees of freedom, 0.1 %


def test_no_split() -> None:
    assert (batch_noise(0, 0, MANY[:100], 12, EPS, 0.0).boundaries == [0, 12, 12]).all()
    assert (batch_noise(0, 0, MANY[:100], 1, EPS, 1.0).boundaries == [0, 1, 1]).all()


@pytest.mark.parametrize("bad", [(-1, 0, 0, 4), (2**64, 0, 0, 4), (0, -1, 0, 4), (0, 0, -1, 4), (0, 0, 0, 0)])
def test_refuses_nonsense(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        window_noise(*bad, EPS, 0.3)


@pytest.mark.parametrize("global_batch", [1, 2, 7, 64, 1280])
def test_stratified_levels_have_one_row_in_each_interval(global_batch: int) -> None:
    for step in (0, 1, 4000):
        levels = stratified_levels(3, step, 0, global_batch, global_batch)
        assert levels.shape == (2, global_batch)
        for of_segment in levels:
            np.testing.assert_array_equal(np.sort((of_segment * global_batch).astype(int)), np.arange(global_batch))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_stratified_levels_of_some_rows_are_those_of_the_step(data: st.DataObject) -> None:
    global_batch = data.draw(st.integers(1, 50))
    first = data.draw(st.integers(0, global_batch - 1))
    count = data.draw(st.integers(1, global_batch - first))
    seed, step = data.draw(st.integers(0, M64)), data.draw(st.integers(0, 2**40))
    whole = stratified_levels(seed, step, 0, global_batch, global_batch)
    part = stratified_levels(seed, step, first, count, global_batch)
    np.testing.assert_array_equal(part, whole[:, first : first + count])


def test_each_stratified_level_is_uniform_and_segments_are_independent() -> None:
    draws, global_batch = 4000, 8
    levels = np.stack([stratified_levels(5, step, 0, global_batch, global_batch) for step in range(draws)])
    grid = (np.arange(draws) + 0.5) / draws
    for row in (0, 3, 7):
        for segment in (0, 1):
            found = np.sort(levels[:, segment, row])
            assert np.abs(found - grid).max() < 1.95 / math.sqrt(draws)  # Kolmogorov-Smirnov, 0.1 %
        assert abs(np.corrcoef(levels[:, 0, row], levels[:, 1, row])[0, 1]) < 4 / math.sqrt(draws)


def test_stratified_streams_differ() -> None:
    keys = [(seed, step, domain) for seed in range(3) for step in range(3) for domain in ("train", "sft")]
    seen = {stratified_levels(seed, step, 0, 4, 4, domain=domain).tobytes() for seed, step, domain in keys}
    assert len(seen) == len(keys)


def test_given_levels_replace_those_of_the_windows_and_nothing_else() -> None:
    levels = np.random.default_rng(0).random((2, 50))
    noise, own = (batch_noise(7, 1, range(50), 24, EPS, 0.5, levels=given) for given in (levels, None))
    np.testing.assert_array_equal(noise.boundaries, own.boundaries)
    np.testing.assert_array_equal(noise.level[:, 0], levels[0].astype(np.float32))
    split = noise.boundaries[:, 1] < 24
    assert 10 < split.sum() < 40
    np.testing.assert_array_equal(noise.level[split, -1], levels[1, split].astype(np.float32))
    again = batch_noise(7, 1, range(50), 24, EPS, 0.5, levels=np.stack([own.level[:, 0], own.level[:, -1]]))
    assert (again.mask == own.mask).mean() > 0.999  # the same numbers, levels rounded to float32
