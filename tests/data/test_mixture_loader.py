"""Batches of a mixture: a group's windows once an epoch of its own, in the planned numbers, whoever asks for them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grouped_shards import write_grouped

from illada.config import ConfigError, Mixture, Objective
from illada.data.groups import GroupedWindows
from illada.data.loader import Loader
from illada.data.mixture_loader import MixtureLoader
from illada.data.noise import window_noise
from illada.data.shards import ShardError, TokenShards
from illada.data.windows import Windows

WINDOW, BATCH, STEPS = 32, 8, 60
SIZES = {
    ("web", "en"): [2000, 1500],
    ("code", "python"): [1200],
    ("web", "de"): [400],
    ("web", "mul"): [20],
}
MIXTURE = Mixture.model_validate(
    {"sources": {"web": {"weight": 2}, "code": {"weight": 3}}, "temperature": 2, "epochs": 9}
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return TokenShards.open(write_grouped(tmp_path_factory.mktemp("data") / "shards", SIZES, 300))


def loader(shards: TokenShards, mixture: Mixture = MIXTURE, **changes: Any) -> MixtureLoader:
    options = {"window": WINDOW, "steps": STEPS, "global_batch": BATCH, "seed": 3, "objective": Objective()} | changes
    return MixtureLoader(shards, mixture, **options)


def group_of(shards: TokenShards, windows: Windows, window_id: int) -> tuple[str, str]:
    entry = shards.shards[windows.locate(window_id)[0]]
    return entry["source"], entry["language"]


def test_every_window_of_a_group_once_before_any_comes_again(shards: TokenShards) -> None:
    it = loader(shards)
    batches = [it.batch(step, 0, BATCH) for step in range(STEPS)]
    ids = np.concatenate([batch.window_ids for batch in batches]).tolist()
    epochs = np.concatenate([batch.epochs for batch in batches]).tolist()
    drawn: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for window_id, epoch in zip(ids, epochs, strict=True):
        drawn.setdefault(group_of(shards, it.windows, window_id), []).append((epoch, window_id))
    assert {
        (group.source, group.language): rows for group, rows in zip(it.groups, it.planned, strict=True) if rows
    } == {name: len(rows) for name, rows in drawn.items()}
    assert sum(it.planned) == STEPS * BATCH
    for group in it.groups:
        rows = drawn.get((group.source, group.language), [])
        orders = []
        for epoch in range(len(rows) // group.windows if group.windows else 0):
            part = rows[epoch * group.windows : (epoch + 1) * group.windows]
            assert {at for at, _ in part} == {epoch}
            assert len({window_id for _, window_id in part}) == group.windows
            orders.append(tuple(window_id for _, window_id in part))
        assert group.windows < 5 or len(set(orders)) == len(orders), "each epoch of a group has an order of its own"
    assert max(epochs) > 1, "something was seen more than once, or this shows little"


def test_tokens_and_noise_are_those_of_the_window_and_the_epoch_of_its_group(shards: TokenShards) -> None:
    it = loader(shards)
    batch = it.batch(STEPS - 1, 0, BATCH)
    assert len(set(batch.epochs.tolist())) > 1
    for row in range(BATCH):
        window_id, epoch = int(batch.window_ids[row]), int(batch.epochs[row])
        np.testing.assert_array_equal(batch.tokens[row], it.windows[window_id])
        noise = window_noise(3, epoch, window_id, WINDOW, it.objective.eps, it.objective.random_split)
        for name in ("mask", "weight", "level", "boundaries"):
            np.testing.assert_array_equal(getattr(batch, name)[row], getattr(noise, name))


def test_any_split_of_the_rows_and_any_first_step_give_the_same(shards: TokenShards) -> None:
    straight = [loader(shards).batch(step, 0, BATCH) for step in range(STEPS)]
    for step in (0, 1, 29, STEPS - 1):
        fresh = loader(shards)
        assert fresh.check(loader(shards).state(step)) == step
        for ranks in (1, 2, 4, 8):
            parts = [fresh.batch(step, rank * BATCH // ranks, BATCH // ranks) for rank in range(ranks)]
            for field in dataclasses.fields(straight[step]):
                whole = np.concatenate([getattr(part, field.name) for part in parts])
                np.testing.assert_array_equal(whole, getattr(straight[step], field.name))


def test_achieved_is_what_was_drawn_and_close_to_even(shards: TokenShards) -> None:
    it = loader(shards)
    counts: Counter[tuple[str, str]] = Counter()
    for step in range(STEPS):
        achieved = dict(zip([(group.source, group.language) for group in it.groups], it.achieved(step), strict=True))
        assert {name: count for name, count in achieved.items() if count} == dict(counts)
        for group, planned in zip(it.groups, it.planned, strict=True):
            assert abs(achieved[group.source, group.language] - step / STEPS * planned) <= 1.68
        counts.update(group_of(shards, it.windows, window) for window in it.batch(step, 0, BATCH).window_ids.tolist())
    assert list(it.achieved(STEPS)) == it.planned
    table = {f"{row['source']}/{row['language']}": row for row in it.table(STEPS)}
    assert sum(row["planned"] for row in table.values()) == STEPS * BATCH * WINDOW
    assert table["code/python"]["achieved"] == table["code/python"]["planned"] == round(STEPS * BATCH * 0.6) * WINDOW
    assert table["code/python"]["epochs"] == table["code/python"]["achieved"] / table["code/python"]["tokens"]
    assert table["web/mul"] == {
        "source": "web", "language": "mul", "tokens": 32, "planned": 9 * 32, "achieved": 9 * 32, "epochs": 9.0,
    }  # fmt: skip


def test_another_mixture_or_none_is_another_stream(shards: TokenShards) -> None:
    state = loader(shards).state(4)
    others = {"temperature": 1.0}, {"epochs": 8.0}
    for other in (loader(shards, MIXTURE.model_copy(update=change)) for change in others):
        with pytest.raises(ValueError, match=r"another training run \(mixture: .* there, .* here"):
            other.check(state)
    with pytest.raises(ValueError, match=r"mixture: .* there, .* here"):
        loader(shards, steps=STEPS + 1).check(state)
    plain = Loader(Windows(shards, WINDOW), BATCH, 3, Objective())
    with pytest.raises(ValueError, match=r"mixture: [0-9a-f]{64} there, None here"):
        plain.check(state)
    with pytest.raises(ValueError, match=r"mixture: None there, [0-9a-f]{64} here"):
        loader(shards).check(plain.state(4))


def test_the_end_of_the_plan(shards: TokenShards) -> None:
    with pytest.raises(ValueError, match=f"planned for {STEPS} steps, {STEPS * BATCH} rows"):
        loader(shards).batch(STEPS, 0, 1)


def test_what_the_shards_cannot_give(shards: TokenShards, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.mixture: the run has 25,600,000 tokens"):
        loader(shards, steps=100_000)
    index = {"vocab_size": 300, "shards": [{k: v for k, v in shards.shards[0].items() if k != "source"}]}
    with pytest.raises(ShardError, match=r"shard-000000\.arrow: holds several sources"):
        loader(TokenShards(shards.folder, index))


class _Index:
    """An index of many shards; none is opened."""

    def __init__(self, count: int, groups: int) -> None:
        self.folder, self.fingerprint = "corpus", "x"
        rng = np.random.default_rng(0)
        self.counts = rng.integers(2**27, 2**28, count)
        of = np.concatenate([np.arange(groups), rng.zipf(1.5, count - groups) % groups])
        self.shards = [{"file": f"{i}", "source": f"s{g % 7}", "language": f"l{g // 7}"} for i, g in enumerate(of)]


def test_scale() -> None:
    """45,000 shards of 500 groups, about 9T tokens: what is kept grows with shards and groups, not with tokens."""
    index, window = _Index(45_000, 500), 4096
    windows = Windows(index, window)
    grouped = GroupedWindows(windows, index)  # type: ignore[arg-type]
    assert len(grouped.groups) == 500
    assert sum(group.windows for group in grouped.groups) == len(windows) > 2e9
    arrays = [value for value in vars(grouped).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 45_000 * 3 * 8
    rng = np.random.default_rng(1)
    for number in (0, 7, 250, 499):
        group = grouped.groups[number]
        ids = grouped.window_ids(number, rng.integers(0, group.windows, 100))
        for window_id in ids.tolist():
            shard, _ = windows.locate(window_id)
            assert (index.shards[shard]["source"], index.shards[shard]["language"]) == (group.source, group.language)
    small = min(range(500), key=lambda number: grouped.groups[number].windows)
    everything = grouped.window_ids(small, np.arange(grouped.groups[small].windows))
    assert len(np.unique(everything)) == grouped.groups[small].windows
