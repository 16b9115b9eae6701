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
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Deduplicate
from pipelines.addresses import normal_url
from pipelines.documents import (
    DocumentFile,
    TextDocument,
    document_files,
    read_documents,
    row_groups,
    write_documents,
)
from pipelines.fates import Fates, Mask, columns, decide, gather
from pipelines.funnel import Funnel, Tally
from pipelines.index import SignatureIndex, build_part, look_up
from pipelines.known import Lookups
from pipelines.pool import ActorPool, Results, Unit
from pipelines.precedence import PRECEDENCE
from pipelines.shared import fetch, load_array, share_array

DEDUPLICATE_VERSION = 3

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

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """A unit of `_sign_units`, of `_write_units`, or of `pipelines.known`."""
        task = unit.payload["task"]
        if task in ("sign", "write"):
            return self._sign(unit, output) if task == "sign" else self._write(unit, output)
        assert self._index is not None, "only an index gives units of keys"
        return (look_up if task == "look-up" else build_part)(self._index, unit.payload, output)

    def _sign(self, unit: Unit, output: Path) -> dict[str, Any]:
        """The arrays of `columns`, with a row for each document."""
        arrays: dict[str, list[Any]] = {name: [] for name in columns(self._config)}
        blank = np.zeros((self._config.bands, 2), dtype=np.uint64)
        for document in read_documents(fetch(unit.payload["file"])):
            data = document.text.encode()
            signature = self._hasher.signature(document.text, document.language)
            arrays["sizes"].append(len(data))
            arrays["digests"].append(_key(data))
            arrays["precedence"].append(PRECEDENCE[self._config.keep](document))
            arrays["comparable"].append(signature is not None)
            arrays["bands"].append(blank if signature is None else self._hasher.band_keys(signature))
            if self._config.urls:
                arrays["located"].append(bool(document.url))
                arrays["urls"].append(_key(normal_url(document.url).encode()))
        for name, (dtype, shape) in columns(self._config).items():
            np.save(output / f"{name}.npy", np.array(arrays[name], dtype=dtype).reshape(-1, *shape))
        return {"documents": len(arrays["sizes"])}

    def _write(self, unit: Unit, output: Path) -> dict[str, Any]:
        languages, sources = Tally(), Tally()

        def counted() -> Iterator[TextDocument]:
            for document in _kept_documents(unit.payload):
                languages.add(document.language, document.bytes)
                sources.add(document.source, document.bytes)
                yield document

        count = write_documents(output / "documents.parquet", counted())
        return {"documents": count, "languages": languages.rows(), "sources": sources.rows()}


def _key(data: bytes) -> npt.NDArray[np.uint64]:
    """The first 128 bits of sha256, as two words."""
    return np.frombuffer(hashlib.sha256(data).digest()[:16], dtype="<u8")


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
