"""Stage `deduplicate`: of documents with equal or nearly equal texts, or of one address, one is kept.

The actor pool computes hashes and signatures of the curated files; one process finds duplicates over all of them
(`pipelines.fates`); the pool writes what is left, in the order it came, into files of even size.

Given the signature index of a corpus, documents that equal or nearly equal one the corpus has seen are removed as well,
and the index is extended. What is left of the new documents is exactly what would be left of them if old and new ones
were deduplicated together and the old ones took precedence: a document goes when its digest or address is known, and a
whole cluster of near-duplicates goes when one of them shares a band with any document seen before, kept or not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Deduplicate
from pipelines.documents import SCHEMA, DocumentFile, document_files, row_groups, utf8, write_tables
from pipelines.fates import Fates, Mask, columns, decide, gather
from pipelines.funnel import Funnel, Tally
from pipelines.index import SignatureIndex, build_part, look_up
from pipelines.known import Lookups
from pipelines.pool import ActorPool, Results, Unit
from pipelines.shared import fetch, load_array, share_array
from pipelines.signing import SIGNED, sign

DEDUPLICATE_VERSION = 4

FILE_BYTES = 64 * 2**20
"""About how much text an output file holds at most."""
_SMALL_FILE_BYTES = 2**20
_FEW_FILES = 16  # small corpora are cut finer, to occupy several workers later on


def deduplicate(
    config: Deduplicate,
    curated: Artifact,
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
    index: SignatureIndex | None = None,
) -> dict[str, Any]:
    """Build the documents of `curated` without duplicates.

    With an `index` (of no segments for a new corpus), also without what it knows; the output then has its successor.

    Returns statistics: funnel, languages, sources, damaged (always empty: its input is this project's own), and of an
    index its documents, segments, merged ones and bytes.
    """
    files = document_files(curated)
    rows = [sum(groups) for groups in row_groups(files, attempt.work)]
    with ActorPool(functools.partial(DeduplicateWorker, config, index), placement) as pool:
        signed = pool.run(_sign_units(files, rows), attempt.work / "signed", progress, "documents")
        lookups = None if index is None else Lookups(index, pool, attempt.work / "known", attempt.scratch, progress)
        sizes = gather(signed, config, "sizes")
        fates = decide(signed, config, lookups)
        extended = {} if lookups is None else {"index": lookups.write(attempt, len(sizes))}
        units = _write_units(files, rows, sizes, fates.kept, attempt)
        written = pool.run(units, attempt.work / "written", progress, "documents")
    for number, result in enumerate(written):
        result.adopt("documents.parquet", attempt, f"documents/{number:05d}.parquet")
    return {**_statistics(sizes, fates, written), **extended}


class DeduplicateWorker:
    """Signs or writes documents, one file after another, and looks up or merges ranges of keys."""

    def __init__(self, config: Deduplicate, index: SignatureIndex | None) -> None:
        from pipelines.minhash import MinHasher

        self._config, self._hasher, self._index = config, MinHasher(config), index
        self._last: tuple[tuple[str, int], pa.Table] | None = None

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """A unit of `_sign_units`, of `_write_units`, or of `pipelines.known`."""
        task = unit.payload["task"]
        if task in ("sign", "write"):
            return self._sign(unit, output) if task == "sign" else self._write(unit, output)
        assert self._index is not None, "only an index gives units of keys"
        return (look_up if task == "look-up" else build_part)(self._index, unit.payload, output)

    def _sign(self, unit: Unit, output: Path) -> dict[str, Any]:
        """The arrays of `columns`, with a row for each document."""
        parts: list[Mapping[str, npt.NDArray[Any]]] = []
        with pq.ParquetFile(fetch(unit.payload["file"])) as file:
            for group in range(file.num_row_groups):
                parts.append(sign(file.read_row_group(group, columns=SIGNED), self._config, self._hasher))
        for name, (dtype, shape) in columns(self._config).items():
            np.save(output / f"{name}.npy", np.concatenate([np.empty((0, *shape), dtype), *(p[name] for p in parts)]))
        return {"documents": sum(len(part["sizes"]) for part in parts)}

    def _write(self, unit: Unit, output: Path) -> dict[str, Any]:
        languages, sources = Tally(), Tally()

        def counted() -> Iterator[pa.Table]:
            for table in self._kept_documents(unit.payload):
                sizes = np.diff(utf8(table["text"])[1])
                for tally, name in ((languages, "language"), (sources, "source")):
                    for value in pc.unique(table[name]).to_pylist():
                        these = sizes[pc.equal(table[name], value).to_numpy()]
                        tally.add(value, int(these.sum()), len(these))
                yield table

        count = write_tables(output / "documents.parquet", counted())
        return {"documents": count, "languages": languages.rows(), "sources": sources.rows()}

    def _kept_documents(self, payload: Mapping[str, Any]) -> Iterator[pa.Table]:
        kept = load_array(payload["kept"])
        for piece in payload["pieces"]:
            with pq.ParquetFile(fetch(piece["file"])) as file:
                end = piece["offset"]
                for group in range(file.num_row_groups):
                    begin, end = end, end + file.metadata.row_group(group).num_rows
                    first, last = max(begin, payload["begin"]), min(end, payload["end"])
                    if first < last and kept[first:last].any():
                        rows = self._row_group(piece["file"]["sha256"], file, group).slice(first - begin, last - first)
                        yield rows.filter(pa.array(kept[first:last]))

    def _row_group(self, sha256: str, file: pq.ParquetFile, group: int) -> pa.Table:
        """Row group `group` of `file`; the last one stays in memory, as the next unit often begins in it."""
        if self._last is None or self._last[0] != (sha256, group):
            self._last = (sha256, group), file.read_row_group(group, columns=SCHEMA.names)
        return self._last[1]


def _sign_units(files: Sequence[DocumentFile], rows: Sequence[int]) -> list[Unit]:
    return [
        Unit(
            name=f"{number:06d}",
            payload={"task": "sign", "file": file.reference},
            weight=rows[number],
        )
        for number, file in enumerate(files)
    ]


def _write_units(
    files: Sequence[DocumentFile], rows: Sequence[int], sizes: npt.NDArray[np.int64], kept: Mask, attempt: Attempt
) -> list[Unit]:
    """Output files as ranges of the kept documents with about equal bytes, each naming the rows it is read from."""
    mask = share_array(kept, "kept", attempt.scratch, attempt.work)
    indices = np.flatnonzero(kept)
    if not len(indices):
        return []
    ends = np.cumsum(sizes[indices])
    total = int(ends[-1])
    number = max(math.ceil(total / FILE_BYTES), min(_FEW_FILES, math.ceil(total / _SMALL_FILE_BYTES)))
    cuts = np.searchsorted(ends, [total * (part + 1) // number for part in range(number)], side="left") + 1
    starts = np.cumsum([0, *rows])
    units: list[Unit] = []
    first = 0
    for last in cuts.tolist():
        if last <= first:
            continue
        begin, end = int(indices[first]), int(indices[last - 1]) + 1
        span = range(np.searchsorted(starts[1:], begin, side="right"), np.searchsorted(starts[:-1], end, side="left"))
        pieces = [{"file": files[place].reference, "offset": int(starts[place])} for place in span]
        payload = {
            "task": "write",
            "pieces": pieces,
            "begin": begin,
            "end": end,
            "kept": mask,
        }
        units.append(Unit(name=f"{len(units):06d}", payload=payload, weight=last - first))
        first = last
    return units


def _statistics(sizes: npt.NDArray[np.int64], fates: Fates, written: Results) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    for result in written:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
    funnel = Funnel(list(fates.steps))
    before = np.ones_like(fates.kept)
    for step, reasons in fates.steps.items():
        funnel.read(step, int(sizes[before].sum()), int(before.sum()))
        for reason, after in reasons.items():
            if lost := int(before.sum() - after.sum()):
                funnel.drop(step, reason, lost)
            before = after
        funnel.keep(step, int(sizes[before].sum()), int(before.sum()))
    return {
        "funnel": funnel.rows(),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "damaged": [],
    }
