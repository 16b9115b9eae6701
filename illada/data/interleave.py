"""Several sequences merged into one, each as evenly as its length allows; any position is found without the others.

Two sequences of a and b rows merge into the balanced word (Christoffel word: Berstel et al., "Combinatorics on Words",
CRM 2008) that has round(n a / (a + b)) rows of the first among its first n. Several are merged by a tree of such pairs,
the two shortest first (Huffman, Proc. IRE 1952): a row is found by going down the tree, which is deep for short
sequences only.

Each pair adds at most half a row to the difference between what a sequence has had and its even share, and what is
above counts less by the ratio of lengths. In a Huffman tree, lengths on the way up grow at least as fast as the
Fibonacci numbers, so the difference is never more than half the sum of their reciprocals: 1.68 rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class Interleave:
    """Sequences of `lengths` rows, each at least 0, merged. Memory: two nodes a sequence, whatever the lengths."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._sequences = len(lengths)
        self._sizes: list[int] = []
        self._parts: list[tuple[int, int]] = []  # of a node: its two parts; of a leaf: its sequence, and -1
        heap = [(length, self._node(length, (sequence, -1))) for sequence, length in enumerate(lengths) if length]
        heapq.heapify(heap)
        while len(heap) > 1:
            (one, first), (other, second) = heapq.heappop(heap), heapq.heappop(heap)
            heapq.heappush(heap, (one + other, self._node(one + other, (first, second))))

    def __len__(self) -> int:
        return self._sizes[-1] if self._sizes else 0

    def __getitem__(self, row: int) -> tuple[int, int]:
        """(sequence, place in it) of a row. IndexError outside [0, len)."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        node = len(self._sizes) - 1
        while self._parts[node][1] >= 0:
            first, second = self._parts[node]
            before = self._of_first(node, row)
            if self._of_first(node, row + 1) > before:
                node, row = first, before
            else:
                node, row = second, row - before
        return self._parts[node][0], row

    def counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows are of each sequence."""
        found = [0] * self._sequences
        waiting = [(len(self._sizes) - 1, rows)] if self._sizes else []
        while waiting:
            node, count = waiting.pop()
            first, second = self._parts[node]
            if second < 0:
                found[first] = count
            else:
                before = self._of_first(node, count)
                waiting += [(first, before), (second, count - before)]
        return found

    def _node(self, size: int, parts: tuple[int, int]) -> int:
        self._sizes.append(size)
        self._parts.append(parts)
        return len(self._sizes) - 1

    def _of_first(self, node: int, rows: int) -> int:
        """How many of the first `rows` rows of a node are of its first part: the even share, rounded."""
        size, part = self._sizes[node], self._sizes[self._parts[node][0]]
        return (2 * rows * part + size) // (2 * size)
