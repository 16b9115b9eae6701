"""What went in and came out of every step, and why the rest did not: the counts a stage reports and checks itself by.

For each step read = kept + dropped + failed, and what one step keeps is what the next one reads.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

MAX_DAMAGED = 1000
"""Damaged places that are listed; the rest is only counted."""


class _Text(Protocol):
    @property
    def text(self) -> str: ...


T = TypeVar("T", bound=_Text)


def utf8_size(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


class Funnel:
    """Counts of an ordered list of steps, in documents and bytes of UTF-8 text."""

    def __init__(self, steps: Sequence[str]) -> None:
        size = _LastSize()
        self._steps = {step: _Step(size) for step in steps}

    def reading(self, step: str, documents: Iterable[T]) -> Iterator[T]:
        """Pass `documents` on, counting them as read by `step`."""
        return self._steps[step].documents_in.passing(documents)

    def kept(self, step: str, documents: Iterable[T]) -> Iterator[T]:
        """Pass `documents` on, counting them as kept by `step`."""
        return self._steps[step].documents_out.passing(documents)

    def read(self, step: str, size: int, documents: int = 1) -> None:
        """Count `documents` of together `size` bytes as read by `step`."""
        self._steps[step].documents_in.add(documents, size)

    def keep(self, step: str, size: int, documents: int = 1) -> None:
        """Count `documents` of together `size` bytes as kept by `step`."""
        self._steps[step].documents_out.add(documents, size)

    def drop(self, step: str, reason: str, documents: int = 1) -> None:
        """Count `documents` as dropped by `step`."""
        self._steps[step].dropped[reason] += documents

    def fail(self, step: str, reason: str) -> None:
        """Count a document that `step` could not process."""
        self._steps[step].failed[reason] += 1

    def rows(self) -> list[dict[str, Any]]:
        """One row a step, as statistics report them. Raises AssertionError when documents are unaccounted for."""
        rows = [
            {
                "step": name,
                "documents_in": step.documents_in.documents,
                "bytes_in": step.documents_in.bytes,
                "documents_out": step.documents_out.documents,
                "bytes_out": step.documents_out.bytes,
                "dropped": dict(sorted(step.dropped.items())),
                "failed": dict(sorted(step.failed.items())),
            }
            for name, step in self._steps.items()
        ]
        check(rows)
        return rows


def merge(parts: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Add up the rows of several funnels of the same steps."""
    merged: dict[str, dict[str, Any]] = {}
    for part in parts:
        for row in part:
            total = merged.setdefault(row["step"], {"step": row["step"], "dropped": Counter(), "failed": Counter()})
            for key in ("documents_in", "bytes_in", "documents_out", "bytes_out"):
                total[key] = total.get(key, 0) + row[key]
            total["dropped"].update(row["dropped"])
            total["failed"].update(row["failed"])
    rows = [
        {**total, "dropped": dict(sorted(total["dropped"].items())), "failed": dict(sorted(total["failed"].items()))}
        for total in merged.values()
    ]
    check(rows)
    return rows


def check(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise AssertionError unless every document read is kept, dropped or failed, and steps follow one another."""
    for row in rows:
        ended = row["documents_out"] + sum(row["dropped"].values()) + sum(row["failed"].values())
        if ended != row["documents_in"]:
            raise AssertionError(f"step {row['step']} read {row['documents_in']} documents but accounts for {ended}")
    for before, after in itertools.pairwise(rows):
        if before["documents_out"] != after["documents_in"]:
            raise AssertionError(
                f"step {after['step']} read {after['documents_in']} documents but {before['step']} kept "
                f"{before['documents_out']}"
            )


def main_losses(rows: Sequence[Mapping[str, Any]], count: int = 3) -> str:
    """The `count` greatest reasons for which documents were lost, in words."""
    losses = [(n, f"{row['step']}: {why}") for row in rows for why, n in {**row["dropped"], **row["failed"]}.items()]
    losses.sort(key=lambda loss: (-loss[0], loss[1]))
    return ", ".join(f"{n} by {why}" for n, why in losses[:count]) or "none was read"


class Tally:
    """Documents and bytes by some key (language, source)."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def add(self, key: str, size: int, documents: int = 1) -> None:
        """Count `documents` of together `size` bytes under `key`."""
        count = self._counts.setdefault(key, [0, 0])
        count[0] += documents
        count[1] += size

    def update(self, other: Mapping[str, Mapping[str, int]]) -> None:
        """Add the rows of another tally."""
        for key, row in other.items():
            self.add(key, row["bytes"], row["documents"])

    def rows(self) -> dict[str, dict[str, int]]:
        """{key: {"documents", "bytes"}}, keys sorted."""
        return {key: {"documents": n, "bytes": size} for key, (n, size) in sorted(self._counts.items())}


class _LastSize:
    """`utf8_size`, remembered for the text that comes from one step to the next."""

    def __init__(self) -> None:
        self._text, self._size = "", 0

    def __call__(self, text: str) -> int:
        if text is not self._text:
            self._text, self._size = text, utf8_size(text)
        return self._size


class _Count:
    def __init__(self, size: _LastSize) -> None:
        self.documents = self.bytes = 0
        self._size = size

    def add(self, documents: int, size: int) -> None:
        self.documents += documents
        self.bytes += size

    def passing(self, documents: Iterable[T]) -> Iterator[T]:
        for document in documents:
            self.add(1, self._size(document.text))
            yield document


class _Step:
    def __init__(self, size: _LastSize) -> None:
        self.documents_in, self.documents_out = _Count(size), _Count(size)
        self.dropped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
