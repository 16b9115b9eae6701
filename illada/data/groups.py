"""The windows of each group of shards: those of a source in a language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illada.data.shards import ShardError, TokenShards
from illada.data.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A source in a language, and the windows there are of it."""

    source: str
    language: str
    windows: int

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.source}/{self.language}"


class GroupedWindows:
    """`windows` numbered anew within each group, groups in the order of their names. Memory: some numbers a shard.

    Raises:
        ShardError: a shard is of no group.
    """

    def __init__(self, windows: Windows, shards: TokenShards) -> None:
        names = []
        for entry in shards.shards:
            if not entry.get("source"):
                raise ShardError(
                    f"{shards.folder}/{entry['file']}: holds several sources, which no mixture can be made of; "
                    "tokenize the documents again"
                )
            names.append((str(entry["source"]), str(entry["language"])))
        groups = sorted(set(names))
        numbers = {name: number for number, name in enumerate(groups)}
        of = np.array([numbers[name] for name in names], dtype=np.int64)
        sizes = shards.counts // windows.length
        order = np.argsort(of, kind="stable")
        self._firsts = (np.cumsum(sizes) - sizes)[order]
        self._ends = np.cumsum(sizes[order])
        totals = np.zeros(len(groups), dtype=np.int64)
        np.add.at(totals, of, sizes)
        self._starts = (np.cumsum(totals) - totals).tolist()
        self.groups = [
            Group(source=source, language=language, windows=total)
            for (source, language), total in zip(groups, totals.tolist(), strict=True)
        ]

    def window_ids(self, group: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers among all windows of those at `places` of a group, each in [0, its windows): O(log shards) each."""
        numbers = places + self._starts[group]
        shards = np.searchsorted(self._ends, numbers, side="right")
        before = np.where(shards > 0, self._ends[shards - 1], 0)
        ids: NDArray[np.int64] = self._firsts[shards] + numbers - before
        return ids
