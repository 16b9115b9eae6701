"""Training windows: any length, cut from the token stream of each shard without copying.

Window i is a slice of a shard's memory-mapped flat values. Windows do not cross shards; a shard's tail shorter than a
window is not used. The index is one cumulative count a shard: 45,000 shards (12T tokens) take 360 kB.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class TokenStreams(Protocol):
    """What windows are cut from: `illada.data.shards.TokenShards`."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens of each shard."""

    @property
    def fingerprint(self) -> str:
        """Digest of the content."""

    def values(self, shard: int) -> NDArray[Any]:
        """The flat tokens of one shard."""

    def offsets(self, shard: int) -> NDArray[np.int32]:
        """Where its documents begin and, last, where they end."""


class Sequences(Protocol):
    """What rows of batches are made of: `Windows`, or `illada.data.conversations.Conversations`."""

    @property
    def shards(self) -> TokenStreams:
        """Where the tokens are."""

    @property
    def length(self) -> int:
        """The most tokens of a row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[Any]: ...


class Windows:
    """All windows of `length` tokens, in shard order. Raises ValueError for a length below 1."""

    def __init__(self, shards: TokenStreams, length: int) -> None:
        if length < 1:
            raise ValueError(f"a window needs at least one token, got length {length}")
        self.shards = shards
        self.length = length
        self._ends = np.cumsum(shards.counts // length, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[int, int]:
        """(shard, first token within it) of window `index`: O(log shards). IndexError outside [0, len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[shard - 1]) if shard else 0
        return shard, (index - before) * self.length

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows `indices` as rows, int64 [their number, length]. IndexError outside [0, len)."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"windows {indices.min()} to {indices.max()} of {len(self)}")
        found = np.empty((len(indices), self.length), dtype=np.int64)
        shards = np.searchsorted(self._ends, indices, side="right")
        touched = np.unique(shards).tolist()
        for shard in touched:
            chosen = slice(None) if len(touched) == 1 else np.flatnonzero(shards == shard)
            before = int(self._ends[shard - 1]) if shard else 0
            count = int(self._ends[shard]) - before
            rows = self.shards.values(shard)[: count * self.length].reshape(count, self.length)
            found[chosen] = rows[indices[chosen] - before]
        return found

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Window `index` as a read-only view of the shard's memory map, dtype uint16 or uint32."""
        shard, start = self.locate(index)
        return self.shards.values(shard)[start : start + self.length]

    def cuts(self, index: int) -> NDArray[np.int64]:
        """Positions of window `index`, 0 left out, at which a document begins: ascending, in O(log documents)."""
        shard, start = self.locate(index)
        offsets = self.shards.offsets(shard)
        first, end = np.searchsorted(offsets, (start + 1, start + self.length))
        return offsets[first:end].astype(np.int64) - start
