"""Stage `deduplicate`: of equal and of nearly equal documents the first is kept; then personal data is replaced.

The actor pool computes hashes and signatures of the curated files; one process finds duplicates over all of them; the
pool writes what is left, in the order it came, into files of even size.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Progress, atomic_path
from illada.config import DataPlacement, Deduplicate
from pipelines.documents import TextDocument, document_files, read_documents, write_documents
from pipelines.funnel import Funnel, Tally
from pipelines.pool import ActorPool, Unit, UnitResult

DEDUPLICATE_VERSION = 1

FILE_BYTES = 64 * 2**20
"""About how much text an output file holds at most."""
_SMALL_FILE_BYTES = 2**20
_FEW_FILES = 16  # small corpora are cut finer, to occupy several workers later on

Mask = npt.NDArray[np.bool_]


def deduplicate(
    config: Deduplicate, curated: Artifact, attempt: Attempt, placement: DataPlacement, progress: Progress
) -> dict[str, Any]:
    """Build the documents of `curated` without duplicates and personal data.

    Returns statistics: funnel, languages, sources, damaged (always empty: its input is this project's own).
    """
    files = document_files(curated)
    with ActorPool(functools.partial(DeduplicateWorker, config), placement) as pool:
        signed = pool.run(_sign_units(files), attempt.work / "signed", progress, "documents")
        sizes = _gather(signed, "sizes")
        unique = _first_of_equal(signed)
        kept = _first_of_similar(signed, unique, config.bands)
        units = _write_units(files, sizes, kept, attempt.work)
        written = pool.run(units, attempt.work / "written", progress, "documents")
    for number, result in enumerate(written):
        attempt.adopt(result.folder / "documents.parquet", f"documents/{number:05d}.parquet")
    return _statistics(sizes, unique, kept, written)


class DeduplicateWorker:
    """Signs or writes documents, one file after another."""

    def __init__(self, config: Deduplicate) -> None:
        from pipelines.minhash import MinHasher

        self._config, self._hasher = config, MinHasher(config)

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """A unit of `_sign_units` or of `_write_units`."""
        return self._sign(unit, output) if unit.payload["task"] == "sign" else self._write(unit, output)

    def _sign(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Arrays with a row for each document: size, digest [2], whether it has a signature, band keys [bands, 2]."""
        rows = []
        for document in read_documents(Path(unit.payload["path"])):
            data = document.text.encode()
            signature = self._hasher.signature(document.text, document.language)
            keys = None if signature is None else self._hasher.band_keys(signature)
            rows.append((len(data), np.frombuffer(hashlib.sha256(data).digest()[:16], dtype="<u8"), keys))
        blank = np.zeros((self._config.bands, 2), dtype=np.uint64)
        arrays = {
            "sizes": np.array([size for size, _, _ in rows], dtype=np.int64),
            "digests": np.array([digest for _, digest, _ in rows], dtype=np.uint64).reshape(-1, 2),
            "comparable": np.array([keys is not None for _, _, keys in rows], dtype=bool),
            "bands": np.array([blank if keys is None else keys for _, _, keys in rows], dtype=np.uint64),
        }
        for name, array in arrays.items():
            np.save(output / f"{name}.npy", array)
        return {"documents": len(rows)}

    def _write(self, unit: Unit, output: Path) -> dict[str, Any]:
        languages, sources = Tally(), Tally()
        changed = 0

        def clean() -> Iterator[TextDocument]:
            nonlocal changed
            for document in _kept_documents(unit.payload):
                text = self._format(document)
                changed += text != document
                languages.add(text.language, text.bytes)
                sources.add(text.source, text.bytes)
                yield text

        count = write_documents(output / "documents.parquet", clean())
        return {"documents": count, "changed": changed, "languages": languages.rows(), "sources": sources.rows()}

    def _format(self, document: TextDocument) -> TextDocument:
        if not self._config.format_pii:
            return document
        from pipelines.pii import format_pii

        return replace(document, text=format_pii(document.text), title=format_pii(document.title))


def _sign_units(files: Sequence[Path]) -> list[Unit]:
    return [
        Unit(
            name=f"{number:06d}",
            payload={"task": "sign", "path": str(path)},
            weight=pq.read_metadata(path).num_rows,
        )
        for number, path in enumerate(files)
    ]


def _gather(signed: Sequence[UnitResult], name: str) -> npt.NDArray[Any]:
    return np.concatenate([np.load(result.folder / f"{name}.npy") for result in signed])


def _first_of_equal(signed: Sequence[UnitResult]) -> Mask:
    """Which documents no earlier one is equal to."""
    from pipelines.minhash import first_of_each

    digests = _gather(signed, "digests")
    return first_of_each(digests) == np.arange(len(digests))


def _first_of_similar(signed: Sequence[UnitResult], unique: Mask, bands: int) -> Mask:
    """Which of the `unique` documents are the first of their cluster of near-duplicates."""
    from pipelines.minhash import clusters, first_of_each

    candidates = np.flatnonzero(unique & _gather(signed, "comparable"))
    links = []
    for band in range(bands):
        keys = np.concatenate([np.load(result.folder / "bands.npy", mmap_mode="r")[:, band] for result in signed])
        first = first_of_each(keys[candidates])
        linked = first != np.arange(len(candidates))
        links.append((candidates[first[linked]], candidates[linked]))
    return unique & (clusters(len(unique), links) == np.arange(len(unique)))


def _write_units(files: Sequence[Path], sizes: npt.NDArray[np.int64], kept: Mask, work: Path) -> list[Unit]:
    """Output files as ranges of the kept documents with about equal bytes, each naming the rows it is read from."""
    mask = work / "kept.npy"
    with atomic_path(mask) as temporary, temporary.open("wb") as file:
        np.save(file, kept)
    indices = np.flatnonzero(kept)
    ends = np.cumsum(sizes[indices])
    total = int(ends[-1])
    number = max(math.ceil(total / FILE_BYTES), min(_FEW_FILES, math.ceil(total / _SMALL_FILE_BYTES)))
    cuts = np.searchsorted(ends, [total * (part + 1) // number for part in range(number)], side="left") + 1
    starts = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in files)])
    units: list[Unit] = []
    first = 0
    for last in cuts.tolist():
        if last <= first:
            continue
        begin, end = int(indices[first]), int(indices[last - 1]) + 1
        pieces = [
            {"path": str(path), "offset": int(offset)}
            for path, offset, following in zip(files, starts[:-1], starts[1:], strict=True)
            if offset < end and following > begin
        ]
        payload = {
            "task": "write",
            "pieces": pieces,
            "begin": begin,
            "end": end,
            "kept": str(mask),
            "digest": hashlib.sha256(kept.tobytes()).hexdigest(),
        }
        units.append(Unit(name=f"{len(units):06d}", payload=payload, weight=last - first))
        first = last
    return units


def _kept_documents(payload: Mapping[str, Any]) -> Iterator[TextDocument]:
    kept = np.load(payload["kept"], mmap_mode="r")
    for piece in payload["pieces"]:
        for index, document in enumerate(read_documents(Path(piece["path"])), piece["offset"]):
            if payload["begin"] <= index < payload["end"] and kept[index]:
                yield document


def _statistics(
    sizes: npt.NDArray[np.int64], unique: Mask, kept: Mask, written: Sequence[UnitResult]
) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    for result in written:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
    funnel = Funnel(["exact", "near", "pii"])
    before = np.ones_like(unique)
    for step, reason, after in (("exact", "duplicate", unique), ("near", "near_duplicate", kept)):
        funnel.read(step, int(sizes[before].sum()), int(before.sum()))
        funnel.keep(step, int(sizes[after].sum()), int(after.sum()))
        if lost := int(before.sum() - after.sum()):
            funnel.drop(step, reason, lost)
        before = after
    funnel.read("pii", int(sizes[kept].sum()), int(kept.sum()))
    for row in languages.rows().values():
        funnel.keep("pii", row["bytes"], row["documents"])
    return {
        "funnel": funnel.rows(),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "damaged": [],
        "pii_documents": sum(result.statistics["changed"] for result in written),
    }
