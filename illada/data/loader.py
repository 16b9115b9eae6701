"""Batches as pure functions of the step: order from a seeded permutation, noise from the window id (and the step).

There is no rank anywhere: a rank asks for the rows it needs of a global step, so any layout sees the same batches, and
a resume is the next step's number. Epochs follow each other without a gap: each is a new order of all windows, and
the batch in which one ends goes on with the next, so that every window comes exactly once an epoch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illada.config import Objective
from illada.data.batch_sizes import BatchSizes
from illada.data.noise import WindowNoise, batch_noise, splits, stratified_levels, without_noise
from illada.data.permutation import Permutation
from illada.data.windows import Sequences, Windows

_BLOCK = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows of one global step; b rows, L tokens a window. Noise fields are explained in `illada.data.noise`.

    Attributes:
        window_ids: int64 [b].
        epochs: int64 [b], the epoch of each row, from 0.
        tokens: int64 [b, L], clean.
        mask: bool [b, L].
        weight: float32 [b, L].
        level: float32 [b, L].
        boundaries: int32 [b, 3], or more with documents apart.
    """

    window_ids: NDArray[np.int64]
    epochs: NDArray[np.int64]
    tokens: NDArray[np.int64]
    mask: NDArray[np.bool_]
    weight: NDArray[np.float32]
    level: NDArray[np.float32]
    boundaries: NDArray[np.int32]


class Loader:
    """Batches of `global_batch` windows, or as `sizes` says, of at most so many.

    `domain` separates the streams of stages that share a seed.

    Raises:
        ValueError: there are fewer windows than one batch needs.
    """

    def __init__(
        self,
        windows: Sequences,
        global_batch: int,
        seed: int,
        objective: Objective,
        *,
        domain: str = "train",
        sizes: BatchSizes | None = None,
    ) -> None:
        self.windows = windows
        self.sizes = sizes or BatchSizes([(0, global_batch)])
        self.global_batch = global_batch
        self.seed = seed
        self.objective = objective
        self.domain = domain
        if len(windows) < global_batch:
            tokens = int(windows.shards.counts.sum())
            raise ValueError(
                f"{tokens} tokens in {len(windows.shards.counts)} shards give {len(windows)} windows of "
                f"{windows.length}, but a batch needs {global_batch} windows ({global_batch * windows.length} tokens): "
                f"add data, or lower global_batch or window"
            )
        self._order = functools.lru_cache(maxsize=2)(self._permutation)
        self._block = functools.lru_cache(maxsize=2)(self._ordered)

    def steps(self, epochs: int) -> int:
        """Whole batches in this many epochs."""
        return self.sizes.steps(epochs * len(self.windows))

    def epochs(self, steps: int) -> float:
        """Passes through the data that this many steps are."""
        return self.sizes.before(steps) / len(self.windows)

    def moved(self, step: int) -> str | None:
        """Fingerprint of the shards that `step` is the first to use instead of others; None at any other step."""
        return None

    def epoch(self, step: int) -> int:
        """Epoch of the first row of a global step, both counted from 0."""
        return self.sizes.before(step) // len(self.windows)

    def batch(self, step: int, first: int, count: int) -> Batch:
        """Rows first..first+count of global step `step`. ValueError for rows outside the global batch."""
        self._check_rows(step, first, count)
        start = self.sizes.before(step) + first
        epochs, window_ids = self._rows(np.arange(start, start + count))
        tokens = self.tokens(window_ids)
        cuts = self._cuts(window_ids) if self.objective.isolate_documents else None
        segments = 2 if cuts is None else 2 + max(map(len, cuts))
        levels = self._levels(step, first, count, segments)
        noise = self._noise(epochs, window_ids, levels, self.windows.length, cuts, segments)
        return Batch(window_ids=window_ids, epochs=epochs, tokens=tokens, **noise)

    def tokens(self, window_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clean tokens of windows: int64 [their number, L]."""
        assert isinstance(self.windows, Windows), "rows of conversations are documents"
        return self.windows.take(window_ids)

    def _check_rows(self, step: int, first: int, count: int) -> None:
        if step < 0 or first < 0 or count < 1 or first + count > self.sizes.size(step):
            raise ValueError(
                f"step {step}, rows {first} to {first + count}: the step has rows 0 to {self.sizes.size(max(step, 0))}"
            )

    def window_ids(self, step: int) -> NDArray[np.int64]:
        """The windows of a whole global step: int64 [its size]."""
        return self._rows(np.arange(self.sizes.before(step), self.sizes.before(step + 1)))[1]

    def inspect(self, window_ids: Sequence[int]) -> str:
        """The options of `illada data inspect` that show these windows."""
        return f"--windows {','.join(map(str, window_ids))} --length {self.windows.length}"

    def _rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and window ids of rows, which are counted from 0 over all steps."""
        epochs, places = np.divmod(rows, len(self.windows))
        blocks = places // _BLOCK
        runs = np.flatnonzero((np.diff(epochs) != 0) | (np.diff(blocks) != 0)) + 1
        ids = [
            self._block(int(epochs[first]), int(blocks[first]))[places[first:end] - blocks[first] * _BLOCK]
            for first, end in itertools.pairwise((0, *runs.tolist(), len(rows)))
        ]
        return epochs, np.concatenate(ids)

    def _ordered(self, epoch: int, block: int) -> NDArray[np.int64]:
        """The windows at a block of places of an epoch: many at once cost hardly more than the few of a step."""
        return self._order(epoch).take(np.arange(block * _BLOCK, min((block + 1) * _BLOCK, len(self.windows))))

    def _cuts(self, window_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        assert isinstance(self.windows, Windows), "rows of conversations are documents"
        return [self.windows.cuts(window) for window in window_ids.tolist()]

    def _levels(self, step: int, first: int, count: int, segments: int = 2) -> NDArray[np.float64] | None:
        """Levels of rows of a step, [segments, count]; None where each window draws its own."""
        if self.objective.levels == "independent":
            return None
        return stratified_levels(self.seed, step, first, count, self.sizes.size(step), segments, domain=self.domain)

    def _noise(
        self,
        epochs: NDArray[np.int64],
        window_ids: NDArray[np.int64],
        levels: NDArray[np.float64] | None,
        length: int,
        cuts: Sequence[NDArray[np.int64]] | None = None,
        segments: int = 2,
    ) -> dict[str, NDArray[Any]]:
        """The noise of rows of `length` tokens, each at an epoch: mask, weight, level, boundaries."""
        found: dict[str, NDArray[Any]] = {}
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            own_cuts = None if cuts is None else [cuts[row] for row in chosen.nonzero()[0]]
            noise = self._of_epoch(
                int(epoch),
                window_ids[chosen],
                None if levels is None else levels[:, chosen],
                length,
                own_cuts,
                segments,
            )
            for name in ("mask", "weight", "level", "boundaries"):
                part = getattr(noise, name)
                found.setdefault(name, np.empty((len(epochs), *part.shape[1:]), dtype=part.dtype))[chosen] = part
        return found

    def _of_epoch(
        self,
        epoch: int,
        window_ids: NDArray[np.int64],
        levels: NDArray[np.float64] | None,
        length: int,
        cuts: Sequence[NDArray[np.int64]] | None,
        segments: int,
    ) -> WindowNoise:
        seed, objective = self.seed, self.objective
        if objective.kind == "autoregressive":
            split = objective.random_split
            boundaries = splits(
                seed, epoch, window_ids, length, split, domain=self.domain, cuts=cuts, segments=segments
            )
            return without_noise(boundaries)
        return batch_noise(
            seed,
            epoch,
            window_ids,
            length,
            objective.eps,
            objective.random_split,
            domain=self.domain,
            levels=levels,
            cuts=cuts,
            segments=segments,
        )

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps: `step` steps are consumed, and everything that fixes what the next ones are."""
        return {
            "step": step,
            "data": self.windows.shards.fingerprint,
            "window": self.windows.length,
            "global_batch": self.global_batch,
            "seed": self.seed,
            "domain": self.domain,
            "objective": self.objective.identity(),
            **({"batch_ramp": [list(stage) for stage in self.sizes.stages]} if len(self.sizes.stages) > 1 else {}),
        }

    def check(self, state: Mapping[str, Any]) -> int:
        """The step to go on with. Raises ValueError, naming what differs, when `state` is of another stream."""
        mine = self.state(int(state["step"]))
        different = sorted(key for key in mine.keys() | state.keys() if mine.get(key) != state.get(key))
        if different:
            details = "; ".join(f"{key}: {state.get(key)} there, {mine.get(key)} here" for key in different)
            raise ValueError(f"the loader state belongs to another training run ({details}); resume with the same data")
        return int(state["step"])

    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(len(self.windows), self.seed, epoch, domain=self.domain)


class MovingLoader(Loader):
    """Batches of one set of shards up to a declared step, from there on of the next one, and so on.

    Each set begins with a fresh order of all its windows, in a stream of order and noise of its own: a window that a
    newer snapshot shares with an older one gets other noise the second time. The state names the moves made so far, so
    a checkpoint from before a move is one of a run without it, too.
    """

    def __init__(
        self,
        windows: Windows,
        moves: Sequence[tuple[int, Windows]],
        global_batch: int,
        seed: int,
        objective: Objective,
        *,
        domain: str = "train",
        sizes: BatchSizes | None = None,
    ) -> None:
        super().__init__(windows, global_batch, seed, objective, domain=domain, sizes=sizes)
        self._moves = [
            (
                step,
                Loader(later, global_batch, seed, objective, domain=f"{domain}@{step}", sizes=self.sizes.after(step)),
            )
            for step, later in moves
        ]

    def epochs(self, steps: int) -> float:
        """Passes through the data, those of every set of shards added up."""
        starts = [0, *(step for step, _ in self._moves)]
        ends = [*starts[1:], steps]
        sizes = [len(self.windows), *(len(loader.windows) for _, loader in self._moves)]
        rows = self.sizes.before
        used = [(start, min(end, steps), size) for start, end, size in zip(starts, ends, sizes, strict=True)]
        return sum((rows(end) - rows(start)) / size for start, end, size in used if start < end)

    def moved(self, step: int) -> str | None:
        """See `Loader.moved`."""
        found = [loader.windows.shards.fingerprint for start, loader in self._moves if start == step]
        return found[0] if found else None

    def epoch(self, step: int) -> int:
        """Epoch within the shards in use at `step`."""
        start, loader = self._at(step)
        return super().epoch(step) if loader is None else loader.epoch(step - start)

    def batch(self, step: int, first: int, count: int) -> Batch:
        """See `Loader.batch`."""
        start, loader = self._at(step)
        return super().batch(step, first, count) if loader is None else loader.batch(step - start, first, count)

    def window_ids(self, step: int) -> NDArray[np.int64]:
        """See `Loader.window_ids`; they are of the shards in use at `step`."""
        start, loader = self._at(step)
        return super().window_ids(step) if loader is None else loader.window_ids(step - start)

    def state(self, step: int) -> dict[str, Any]:
        """See `Loader.state`; `moves` has the step and the shards of each move that a consumed step was after."""
        made = [[start, loader.windows.shards.fingerprint] for start, loader in self._moves if start < step]
        return {**super().state(step), **({"moves": made} if made else {})}

    def _at(self, step: int) -> tuple[int, Loader | None]:
        """The last move up to `step`, and the loader after it; (0, None) before the first."""
        return next(((start, loader) for start, loader in reversed(self._moves) if start <= step), (0, None))
