"""Batches depend on (data, seed, step) alone: not on how rows are split over ranks, nor on what was loaded before."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from illada.config import Objective
from illada.data.loader import Batch, Loader, MovingLoader
from illada.data.noise import stratified_levels, window_noise
from illada.data.permutation import Permutation
from illada.data.shards import TokenShards
from illada.data.windows import Windows

Documents = list[NDArray[np.int64]]
Make = Callable[..., TokenShards]
ARRAYS = ("epochs", "window_ids", "tokens", "mask", "weight", "level", "boundaries")


@pytest.fixture
def shards(make_shards: Make, documents: Documents) -> TokenShards:
    return make_shards(documents)


def loader(shards: TokenShards, global_batch: int = 8, window: int = 32, **options: object) -> Loader:
    return Loader(Windows(shards, window), global_batch, **{"seed": 3, "objective": Objective(), **options})


def assert_same(one: Batch, other: Batch) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_shapes_and_types(shards: TokenShards) -> None:
    batch = loader(shards).batch(0, 0, 8)
    got = {name: (getattr(batch, name).dtype.name, getattr(batch, name).shape) for name in ARRAYS}
    assert got == {
        "epochs": ("int64", (8,)),
        "window_ids": ("int64", (8,)),
        "tokens": ("int64", (8, 32)),
        "mask": ("bool", (8, 32)),
        "weight": ("float32", (8, 32)),
        "level": ("float32", (8, 32)),
        "boundaries": ("int32", (8, 3)),
    }


def test_rows_are_the_windows_with_their_noise(shards: TokenShards) -> None:
    it = loader(shards)
    windows, objective = it.windows, it.objective
    for step in (0, 5, it.steps(1), it.steps(2) + 2):
        batch = it.batch(step, 0, 8)
        for row, (epoch, window_id) in enumerate(zip(batch.epochs.tolist(), batch.window_ids.tolist(), strict=True)):
            np.testing.assert_array_equal(batch.tokens[row], windows[window_id])
            noise = window_noise(3, epoch, window_id, 32, objective.eps, objective.random_split)
            for name in ("mask", "weight", "level", "boundaries"):
                np.testing.assert_array_equal(getattr(batch, name)[row], getattr(noise, name))


@pytest.mark.parametrize("global_batch", [1, 8, 13])
def test_every_window_once_an_epoch(shards: TokenShards, global_batch: int) -> None:
    it = loader(shards, global_batch)
    total, steps = len(it.windows), it.steps(3)
    assert steps == 3 * total // global_batch
    batches = [it.batch(step, 0, global_batch) for step in range(steps + 1)]
    assert [it.epoch(step) for step in range(steps + 1)] == [int(batch.epochs[0]) for batch in batches]
    epochs = np.concatenate([batch.epochs for batch in batches])
    windows = np.concatenate([batch.window_ids for batch in batches])
    np.testing.assert_array_equal(epochs, np.arange(len(epochs)) // total)
    orders = []
    for epoch in range(3):
        seen = windows[epochs == epoch]
        np.testing.assert_array_equal(np.sort(seen), np.arange(total))
        np.testing.assert_array_equal(seen, Permutation(total, 3, epoch).take(np.arange(total)))
        orders.append(seen.tobytes())
    assert len(set(orders)) == 3


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_split_of_the_rows_gives_the_same_batch(data: st.DataObject) -> None:
    it = _shared_loader()
    step = data.draw(st.integers(0, it.steps(3)))
    cuts = sorted(data.draw(st.sets(st.integers(1, it.global_batch - 1))))
    edges = [0, *cuts, it.global_batch]
    whole = it.batch(step, 0, it.global_batch)
    for first, last in itertools.pairwise(edges):
        part = it.batch(step, first, last - first)
        rows = {name: getattr(whole, name)[first:last] for name in ARRAYS}
        assert_same(part, dataclasses.replace(whole, **rows))


class _ArrayShards:
    """One shard in memory."""

    fingerprint = "array"
    counts = np.array([5000, 300, 2000])

    def values(self, shard: int) -> NDArray[np.uint16]:
        return np.arange(self.counts[shard], dtype=np.uint16)

    def offsets(self, shard: int) -> NDArray[np.int32]:
        return np.array([0, self.counts[shard]], dtype=np.int32)


def _shared_loader() -> Loader:
    return Loader(Windows(_ArrayShards(), 24), 12, 5, Objective(random_split=0.5))


def test_stratified_levels_are_those_of_the_step_in_any_part_of_it(shards: TokenShards) -> None:
    it = loader(shards, objective=Objective(random_split=0.5, levels="stratified"))
    own = loader(shards, objective=Objective(random_split=0.5))
    for step in (0, 3, it.steps(1), it.steps(1) + 1):  # also where an epoch ends within the step
        whole = it.batch(step, 0, 8)
        levels = stratified_levels(3, step, 0, 8, 8)
        np.testing.assert_array_equal(whole.level[:, 0], levels[0].astype(np.float32))
        for first in range(0, 8, 2):
            rows = {name: getattr(whole, name)[first : first + 2] for name in ARRAYS}
            assert_same(it.batch(step, first, 2), dataclasses.replace(whole, **rows))
        for name in ("epochs", "window_ids", "tokens", "boundaries"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(own.batch(step, 0, 8), name))


@pytest.mark.parametrize("levels", ["independent", "stratified"])
def test_documents_apart(shards: TokenShards, levels: Any) -> None:
    """Cut where documents begin and where windows are cut at random; a level for each; in any part of a step."""
    it = loader(shards, objective=Objective(random_split=0.5, levels=levels, isolate_documents=True))
    plain = loader(shards, objective=Objective(random_split=0.5))
    several = 0
    for step in (0, 3, it.steps(1)):
        whole, other = it.batch(step, 0, 8), plain.batch(step, 0, 8)
        np.testing.assert_array_equal(whole.tokens, other.tokens)
        for row, window_id in enumerate(whole.window_ids.tolist()):
            assert isinstance(it.windows, Windows)
            ends = sorted({0, *it.windows.cuts(window_id).tolist(), *other.boundaries[row].tolist()})
            assert sorted(set(whole.boundaries[row].tolist())) == ends
            assert (np.diff(whole.boundaries[row]) >= 0).all()
            drawn = [set(whole.level[row, a:b].tolist()) for a, b in itertools.pairwise(ends)]
            assert all(len(level) == 1 for level in drawn) and len(set.union(*drawn)) == len(drawn)
            several += len(drawn) > 2
        p = (1 - it.objective.eps) * whole.level.astype(np.float64) + it.objective.eps
        np.testing.assert_allclose(whole.weight[whole.mask], 1 / p[whole.mask], rtol=1e-5)
        for first in range(0, 8, 2):
            part, rows = it.batch(step, first, 2), slice(first, first + 2)
            for name in ("tokens", "mask", "weight", "level"):
                np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
            width = part.boundaries.shape[1]
            np.testing.assert_array_equal(part.boundaries, whole.boundaries[rows, :width])
            assert (whole.boundaries[rows, width:] == 32).all()
    assert several > 3


def test_windows_can_be_looked_at(shards: TokenShards) -> None:
    it = loader(shards)
    np.testing.assert_array_equal(it.window_ids(3), it.batch(3, 0, 8).window_ids)
    assert it.inspect([5, 2]) == "--windows 5,2 --length 32"


def test_resume_at_any_step(shards: TokenShards) -> None:
    steps = loader(shards).steps(2)
    straight = loader(shards)
    trace = [straight.batch(step, 0, 8) for step in range(steps)]
    for start in (0, 1, steps // 2 - 1, steps // 2, steps - 1):
        resumed = loader(shards)
        first = resumed.check(straight.state(start))
        assert first == start
        assert_same(resumed.batch(first, 0, 8), trace[start])


def test_same_content_in_other_shard_folders_is_the_same_stream(make_shards: Make, documents: Documents) -> None:
    one, other = make_shards(documents, together=3), make_shards(documents, together=11)
    loader(other).check(loader(one).state(4))
    assert_same(loader(one).batch(4, 0, 8), loader(other).batch(4, 0, 8))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 4}, "seed"),
        ({"window": 16}, "window"),
        ({"global_batch": 4}, "global_batch"),
        ({"domain": "sft"}, "domain"),
        ({"objective": Objective(eps=0.01)}, "objective"),
        ({"objective": Objective(levels="stratified")}, "objective"),
    ],
)
def test_another_stream_is_refused(shards: TokenShards, change: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"another training run \({name}: .* there, .* here"):
        loader(shards, **change).check(loader(shards).state(2))


def test_other_data_is_refused(make_shards: Make, documents: Documents) -> None:
    with pytest.raises(ValueError, match="data: "):
        loader(make_shards(documents[1:])).check(loader(make_shards(documents)).state(0))


def test_domains_separate_order_and_noise(shards: TokenShards) -> None:
    one, other = (loader(shards, domain=domain).batch(0, 0, 8) for domain in ("train", "sft"))
    assert one.window_ids.tolist() != other.window_ids.tolist()


def test_too_few_tokens(shards: TokenShards) -> None:
    tokens = shards.tokens
    with pytest.raises(ValueError, match=rf"{tokens} tokens .* a batch needs 1000 windows \(32000 tokens\)"):
        loader(shards, global_batch=1000)


@pytest.mark.parametrize(("step", "first", "count"), [(-1, 0, 1), (0, -1, 2), (0, 0, 0), (0, 5, 4), (0, 8, 1)])
def test_rows_outside_the_step(shards: TokenShards, step: int, first: int, count: int) -> None:
    with pytest.raises(ValueError, match="the step has rows 0 to 8"):
        loader(shards).batch(step, first, count)


@pytest.fixture
def grown(make_shards: Make, documents: Documents) -> TokenShards:
    """A newer snapshot: the shards of `shards` and more."""
    return make_shards([*documents, *documents[:150]])


def moving(shards: TokenShards, *moves: tuple[int, TokenShards], **options: object) -> MovingLoader:
    windows = [(step, Windows(later, 32)) for step, later in moves]
    return MovingLoader(Windows(shards, 32), windows, 8, **{"seed": 3, "objective": Objective(), **options})


def test_a_move_goes_on_with_the_newer_shards(shards: TokenShards, grown: TokenShards) -> None:
    step = loader(shards).steps(1) + 3  # in the second epoch
    before, after = loader(shards), loader(grown, domain=f"train@{step}")
    both = moving(shards, (step, grown))
    for at in (0, step - 1):
        assert_same(both.batch(at, 0, 8), before.batch(at, 0, 8))
        assert both.epoch(at) == before.epoch(at)
    epoch = after.steps(1)
    seen = np.concatenate([both.batch(step + at, 0, 8).window_ids for at in range(epoch)])
    assert len(set(seen.tolist())) == len(seen), "a fresh order of all windows of the newer snapshot"
    for at in (0, 5, epoch + 1):
        assert_same(both.batch(step + at, 0, 8), after.batch(at, 0, 8))
        assert both.epoch(step + at) == after.epoch(at)
    assert both.epochs(step) == before.epochs(step)
    assert both.epochs(step + epoch) == pytest.approx(before.epochs(step) + after.epochs(epoch))
    assert [both.moved(at) for at in (0, step - 1, step, step + 1)] == [None, None, grown.fingerprint, None]


def test_a_window_that_both_snapshots_have_gets_other_noise(shards: TokenShards, grown: TokenShards) -> None:
    both = moving(shards, (50, grown))

    def masks(steps: range) -> dict[int, NDArray[np.bool_]]:
        batches = [both.batch(step, 0, 8) for step in steps]
        return {int(i): mask for batch in batches for i, mask in zip(batch.window_ids, batch.mask, strict=True)}

    early, late = masks(range(20)), masks(range(50, 90))
    shared = early.keys() & late.keys()
    assert len(shared) > 10
    assert not any((early[window] == late[window]).all() for window in shared)


def test_resume_around_a_move(shards: TokenShards, grown: TokenShards, make_shards: Make, documents: Documents) -> None:
    both = moving(shards, (4, grown), (9, shards))
    for step in (0, 3, 4, 5, 9, 10):
        resumed = moving(shards, (4, grown), (9, shards))
        assert resumed.check(both.state(step)) == step
        assert_same(resumed.batch(step, 0, 8), both.batch(step, 0, 8))
    plain, one = loader(shards), moving(shards, (4, grown))
    for step in (0, 3, 4):
        assert both.state(step) == plain.state(step), "up to the move a checkpoint is one of a run without it"
        assert both.check(plain.state(step)) == step
    assert both.check(one.state(9)) == 9
    other = moving(shards, (4, make_shards(documents[1:])))
    for stranger, step in ((plain, 5), (moving(shards, (5, grown)), 6), (one, 10), (other, 5)):
        with pytest.raises(ValueError, match=r"another training run \(moves: .* there, .* here"):
            both.check(stranger.state(step))
