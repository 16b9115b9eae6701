"""Stage `deduplicate`: of equal and of nearly equal documents the first is kept.

The actor pool computes hashes and signatures of the curated files; one process finds duplicates over all of them; the
pool writes what is left, in the order it came, into files of even size.

Given the signature index of a corpus, documents that equal or nearly equal one the corpus has seen are removed as well,
and the index is extended. What is left of the new documents is exactly what would be left of them if old and new ones
were deduplicated together: a document goes when its digest is known, and a whole cluster of near-duplicates goes when
one of them shares a band with any document seen before, kept or not.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Deduplicate
from pipelines.documents import (
    DocumentFile,
    TextDocument,
    document_files,
    read_documents,
    row_groups,
    write_documents,
)
from pipelines.funnel import Funnel, Tally
from pipelines.index import DIGESTS, SignatureIndex, band_table, build_part, look_up
from pipelines.known import Lookups
from pipelines.pool import ActorPool, Results, Unit
from pipelines.shared import fetch, load_array, share_array

DEDUPLICATE_VERSION = 2

FILE_BYTES = 64 * 2**20
"""About how much text an output file holds at most."""
_SMALL_FILE_BYTES = 2**20
_FEW_FILES = 16  # small corpora are cut finer, to occupy several workers later on

Mask = npt.NDArray[np.bool_]
_COLUMNS: Mapping[str, tuple[type[Any], tuple[int, ...]]] = {
    "sizes": (np.int64, ()),
    "digests": (np.uint64, (2,)),
    "comparable": (np.bool_, ()),
}
"""Type and shape of a document's row in the arrays of `_sign`."""


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
        sizes = _gather(signed, "sizes")
        fates = _decide(signed, config.bands, lookups)
        extended = {} if lookups is None else {"index": lookups.write(attempt, len(sizes))}
        units = _write_units(files, rows, sizes, fates.kept, attempt)
        written = pool.run(units, attempt.work / "written", progress, "documents")
    for number, result in enumerate(written):
        result.adopt("documents.parquet", attempt, f"documents/{number:05d}.parquet")
    return {**_statistics(sizes, fates, written), **extended}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """What becomes of each document; each mask is a subset of the one before.

    Attributes:
        first: no earlier one of these documents is equal to it.
        unique: and none that the corpus has seen is.
        fresh: and no near-duplicate of it is one that the corpus has seen.
        kept: and none is earlier among these documents.
    """

    first: Mask
    unique: Mask
    fresh: Mask
    kept: Mask


class DeduplicateWorker:
    """Signs or writes documents, one file after another, and looks up or merges ranges of keys."""

    def __init__(self, config: Deduplicate, index: SignatureIndex | None) -> None:
        from pipelines.minhash import MinHasher

        self._config, self._hasher, self._index = config, MinHasher(config), index

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """A unit of `_sign_units`, of `_write_units`, or of `pipelines.known`."""
        task = unit.payload["task"]
        if task in ("sign", "write"):
            return self._sign(unit, output) if task == "sign" else self._write(unit, output)
        assert self._index is not None, "only an index gives units of keys"
        return (look_up if task == "look-up" else build_part)(self._index, unit.payload, output)

    def _sign(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Arrays with a row for each document: size, digest [2], whether it has a signature, band keys [bands, 2]."""
        rows = []
        for document in read_documents(fetch(unit.payload["file"])):
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

        def counted() -> Iterator[TextDocument]:
            for document in _kept_documents(unit.payload):
                languages.add(document.language, document.bytes)
                sources.add(document.source, document.bytes)
                yield document

        count = write_documents(output / "documents.parquet", counted())
        return {"documents": count, "languages": languages.rows(), "sources": sources.rows()}


def _sign_units(files: Sequence[DocumentFile], rows: Sequence[int]) -> list[Unit]:
    return [
        Unit(
            name=f"{number:06d}",
            payload={"task": "sign", "file": file.reference},
            weight=rows[number],
        )
        for number, file in enumerate(files)
    ]


def _gather(signed: Results, name: str) -> npt.NDArray[Any]:
    dtype, shape = _COLUMNS[name]
    return np.concatenate([np.empty((0, *shape), dtype), *(np.load(r.path(f"{name}.npy")) for r in signed)])


def _gather_band(files: Sequence[Path], band: int) -> npt.NDArray[np.uint64]:
    columns = [np.load(file, mmap_mode="r")[:, band] for file in files]
    return np.concatenate([np.empty((0, 2), np.uint64), *columns])


def _decide(signed: Results, bands: int, lookups: Lookups | None) -> Fates:
    """The fate of every document, by its digest and band keys."""
    from pipelines.minhash import clusters, first_of_each

    digests = _gather(signed, "digests")
    places = np.arange(len(digests))
    first = first_of_each(digests) == places
    unique = first.copy()
    if lookups is not None:
        lookups.ask(DIGESTS, digests[first])
        lookups.answer([DIGESTS])
        unique[first] = ~lookups.known(DIGESTS)

    candidates = np.flatnonzero(unique & _gather(signed, "comparable"))
    links = []
    files = [result.path("bands.npy") for result in signed]
    for band in range(bands):
        keys = _gather_band(files, band)[candidates]
        firsts = first_of_each(keys)
        linked = firsts != np.arange(len(candidates))
        links.append((candidates[firsts[linked]], candidates[linked]))
        if lookups is not None:
            lookups.ask(band_table(band), keys)
    roots = clusters(len(digests), links)

    seen = np.zeros_like(first)
    if lookups is not None:
        names = [band_table(band) for band in range(bands)]
        lookups.answer(names)
        for name in names:
            seen[roots[candidates[lookups.known(name)]]] = True
    fresh = unique & ~seen[roots]
    return Fates(first=first, unique=unique, fresh=fresh, kept=fresh & (roots == places))


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


def _kept_documents(payload: Mapping[str, Any]) -> Iterator[TextDocument]:
    kept = load_array(payload["kept"])
    for piece in payload["pieces"]:
        for index, document in enumerate(read_documents(fetch(piece["file"])), piece["offset"]):
            if payload["begin"] <= index < payload["end"] and kept[index]:
                yield document


def _statistics(sizes: npt.NDArray[np.int64], fates: Fates, written: Results) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    for result in written:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
    funnel = Funnel(["exact", "near"])
    before = np.ones_like(fates.kept)
    for step, reasons in (
        ("exact", (("duplicate", fates.first), ("known_duplicate", fates.unique))),
        ("near", (("known_near_duplicate", fates.fresh), ("near_duplicate", fates.kept))),
    ):
        funnel.read(step, int(sizes[before].sum()), int(before.sum()))
        for reason, after in reasons:
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
