"""Asks the signature index about new documents and extends it, in ranges of keys spread over the actor pool.

The keys to ask for are sorted once by the stage's driver, a table at a time, and lie in its work folder; each unit of
work takes one range of them through one part of each segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.artifacts import Attempt, Folder, Progress, atomic_path, write_json
from pipelines.index import (
    INDEX,
    KEY_BYTES,
    Mask,
    SignatureIndex,
    cut,
    index_value,
    part_bits,
    part_name,
    sort_keys,
    tables,
)
from pipelines.pool import ActorPool, Unit
from pipelines.shared import Reference, share


@dataclass(frozen=True, kw_only=True, slots=True)
class _Query:
    """Sorted keys of one table in `keys`, and the place among them of every row asked for in `places`.

    The files `places` and `hits` are the driver's own; workers read what `shared` refers to.
    """

    table: str
    keys: Path
    places: Path
    hits: Path
    shared: Reference


class Lookups:
    """What the documents of one refresh ask of an index, and then add to it."""

    def __init__(self, index: SignatureIndex, pool: ActorPool, work: Folder, scratch: Path, progress: Progress) -> None:
        self._index, self._pool, self._work, self._progress = index, pool, work, progress
        self._scratch = scratch / "known"
        self._queries: dict[str, _Query] = {}

    def ask(self, table: str, rows: npt.NDArray[np.uint64]) -> None:
        """Note that the keys `rows` [n, 2] are to be looked up in `table`; `answer` does it for several tables."""
        keys, places = sort_keys(rows)
        paths = [self._scratch / f"{table}.{name}.npy" for name in ("keys", "places", "hits")]
        save(paths[0], keys)
        save(paths[1], places)
        query = _Query(table=table, keys=paths[0], places=paths[1], hits=paths[2], shared=share(paths[0], self._work))
        self._queries[table] = query

    def answer(self, names: Sequence[str]) -> None:
        """Look up what was asked for in the tables of `names`."""
        units = [unit for name in names for unit in self._units(self._queries[name])]
        results = self._pool.run(units, self._work / "look-up", self._progress, "keys")
        found = {unit.name: np.load(result.path("hits.npy")) for unit, result in zip(units, results, strict=True)}
        for name in names:
            query = self._queries[name]
            hits = np.zeros(np.load(query.keys, mmap_mode="r").shape[1], dtype=bool)
            for unit in units:
                if unit.payload["table"] == name:
                    hits[unit.payload["first"] : unit.payload["last"]] = found[unit.name]
            save(query.hits, hits)

    def known(self, table: str) -> Mask:
        """Which of the rows asked for, in their order, the index has."""
        query = self._queries[table]
        hits: Mask = np.load(query.hits)[np.load(query.places)]
        return hits

    def write(self, attempt: Attempt, documents: int) -> dict[str, int]:
        """Put a segment of the new keys, and of the older segments it takes the place of, into the output.

        Returns {"documents", "segments", "merged", "bytes"} of the index as it is then.
        """
        merged = self._index.mergeable(documents)
        replaced = self._index.segments[len(self._index.segments) - merged :]
        units = [
            unit
            for table in tables(self._index.config)
            for unit in self._part_units(self._queries[table], merged, sum(old.rows(table) for old in replaced))
        ]
        results = self._pool.run(units, self._work / "index", self._progress, "keys")
        parts: dict[str, list[int]] = {}
        for unit, result in zip(units, results, strict=True):
            rows = parts.setdefault(unit.payload["table"], [])
            result.adopt("part.npy", attempt, part_name(unit.payload["table"], len(rows)))
            rows.append(result.statistics["rows"])
        segment: dict[str, Any] = {
            "documents": documents + sum(old.documents for old in replaced),
            "parts": parts,
        }
        older = self._index.without_newest(merged)
        identity = attempt.identity
        write_json(attempt.output / INDEX, index_value(older, identity.stage, identity.fingerprint, segment))
        keys = sum(map(sum, parts.values())) + sum(old.rows(table) for old in older.segments for table in parts)
        return {
            "documents": segment["documents"] + older.documents,
            "segments": len(older.segments) + 1,
            "merged": merged,
            "bytes": keys * KEY_BYTES,
        }

    def _units(self, query: _Query) -> list[Unit]:
        bits = self._index.bits(query.table)
        ranges = cut(np.load(query.keys, mmap_mode="r"), bits)
        return [
            self._unit("look-up", query, bits, prefix, first, last)
            for prefix, (first, last) in enumerate(ranges)
            if last > first
        ]

    def _part_units(self, query: _Query, merged: int, rows: int) -> list[Unit]:
        hits = np.load(query.hits)
        bits = part_bits(rows + int((~hits).sum()))
        more = {"hits": share(query.hits, self._work), "merged": merged}
        return [
            self._unit("index", query, bits, prefix, first, last, **more)
            for prefix, (first, last) in enumerate(cut(np.load(query.keys, mmap_mode="r"), bits))
        ]

    def _unit(self, task: str, query: _Query, bits: int, prefix: int, first: int, last: int, **more: Any) -> Unit:
        payload = {
            "task": task,
            "table": query.table,
            "queries": query.shared,
            "bits": bits,
            "prefix": prefix,
            "first": first,
            "last": last,
            **more,
        }
        return Unit(name=f"{query.table}-{prefix:05d}", payload=payload, weight=last - first)


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Replace `path` by the array, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
