"""Batches of a mixture: groups of windows interleaved evenly, each in an order of its own, epoch after epoch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illada.artifacts import fingerprint
from illada.config import Mixture, Objective, Training
from illada.data.batch_sizes import BatchSizes
from illada.data.groups import GroupedWindows
from illada.data.interleave import Interleave
from illada.data.loader import Loader
from illada.data.mixture import plan_rows
from illada.data.permutation import Permutation
from illada.data.shards import TokenShards
from illada.data.windows import Windows

_ORDERS = 4096  # permutations kept, of some hundred bytes each


class MixtureLoader(Loader):
    """Batches of `steps` steps, whose rows are divided among the groups as `mixture` says.

    Row r is the k-th of its group, by an even interleave of all groups (`illada.data.interleave`), and so in epoch
    k // windows of it. Every window of a group comes once before any comes again. Noise is keyed by that epoch and the
    window's number among all windows.

    Raises:
        ConfigError: the mixture is not possible with these shards and steps.
        ShardError: shards that are of no group.
        ValueError: there are fewer windows than one batch needs.
    """

    def __init__(
        self,
        shards: TokenShards,
        mixture: Mixture,
        window: int,
        steps: int,
        global_batch: int,
        seed: int,
        objective: Objective,
        *,
        domain: str = "train",
        sizes: BatchSizes | None = None,
    ) -> None:
        windows = Windows(shards, window)
        super().__init__(windows, global_batch, seed, objective, domain=domain, sizes=sizes)
        self._grouped = GroupedWindows(windows, shards)
        self.groups = self._grouped.groups
        self.planned = plan_rows(mixture, self.groups, self.sizes.before(steps), window)
        self._interleave = Interleave(self.planned)
        self._group_order = functools.lru_cache(maxsize=_ORDERS)(self._group_permutation)

    @classmethod
    def of(cls, shards: TokenShards, mixture: Mixture, training: Training, domain: str = "train") -> MixtureLoader:
        """The loader of a stage, whose `training` has `steps`."""
        assert training.steps is not None, "the configuration is checked for this"
        return cls(
            shards,
            mixture,
            training.window,
            training.steps,
            training.global_batch,
            training.seed,
            training.objective,
            sizes=BatchSizes.of(training),
            domain=domain,
        )

    def achieved(self, step: int) -> Sequence[int]:
        """Rows of each group in the first `step` steps."""
        return self._interleave.counts(self.sizes.before(step))

    def table(self, step: int) -> list[dict[str, Any]]:
        """A row a group: source, language, tokens there are, planned for all steps, achieved at `step`, and epochs."""
        window = self.windows.length
        return [
            {
                "source": group.source,
                "language": group.language,
                "tokens": group.windows * window,
                "planned": planned * window,
                "achieved": achieved * window,
                "epochs": achieved / group.windows if group.windows else 0.0,
            }
            for group, planned, achieved in zip(self.groups, self.planned, self.achieved(step), strict=True)
        ]

    def epoch(self, step: int) -> int:
        """The most epochs that any group has completed before a global step."""
        done = zip(self.achieved(step), self.groups, strict=True)
        return max(rows // group.windows for rows, group in done if group.windows)

    def state(self, step: int) -> dict[str, Any]:
        """See `Loader.state`; `mixture` stands for the rows planned of each group, and so for all steps."""
        rows = [[group.source, group.language, group.windows] for group in self.groups]
        planned = [[*group, rows] for group, rows in zip(rows, self.planned, strict=True)]
        return {**super().state(step), "mixture": fingerprint(planned)}

    def _rows(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if rows[-1] >= len(self._interleave):
            steps = self.sizes.steps(len(self._interleave))
            raise ValueError(f"row {rows[-1]}: the mixture is planned for {steps} steps, {len(self._interleave)} rows")
        groups, places = np.array([self._interleave[row] for row in rows.tolist()], dtype=np.int64).T
        epochs, places = np.divmod(places, np.array([group.windows for group in self.groups])[groups])
        ids = np.empty_like(rows)
        for group, epoch in sorted(set(zip(groups.tolist(), epochs.tolist(), strict=True))):
            chosen = (groups == group) & (epochs == epoch)
            ids[chosen] = self._grouped.window_ids(group, self._group_order(group, epoch).take(places[chosen]))
        return epochs, ids

    def _group_permutation(self, group: int, epoch: int) -> Permutation:
        names = self.groups[group]
        return Permutation(names.windows, self.seed, epoch, domain=f"{self.domain}/{names.source}/{names.language}")
