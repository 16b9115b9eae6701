"""Stage `deduplicate`: of documents with equal or nearly equal texts, or of one address, one is kept.

Units of the actor pool compute hashes and signatures of the curated files, find duplicates among them in blocks of
documents and ranges of keys (`pipelines.fates`), and write what is left, in the order it came, into files of even size.
The stage's driver holds what the units are, and nothing of a document.

Given the signature index of a corpus, documents that equal or nearly equal one the corpus has seen are removed as well,
and the index is extended. What is left of the new documents is exactly what would be left of them if old and new ones
were deduplicated together and the old ones took precedence: a document goes when its digest or address is known, and a
whole cluster of near-duplicates goes when one of them shares a band with any document seen before, kept or not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Deduplicate
from pipelines import block_units, blocks, components, range_units
from pipelines.blocks import STEPS, Blocks, Fate, SignedBlocks, columns
from pipelines.documents import document_files, row_groups, utf8, write_tables
from pipelines.even_files import KeptReader, cut_block, write_kept
from pipelines.fates import Decider
from pipelines.funnel import Funnel, Tally
from pipelines.index import SignatureIndex, build_part
from pipelines.known import extend_index
from pipelines.phases import Phases
from pipelines.pool import ActorPool, Results, Unit
from pipelines.shared import fetch
from pipelines.signing import SIGNED, sign

DEDUPLICATE_VERSION = 4


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
        phases = Phases(pool, attempt, progress)
        results = phases.run("signed", "sign", [{"file": file.reference} for file in files], rows)
        signed = SignedBlocks(phases, results, rows, Blocks(documents=sum(rows), bits=blocks.BLOCK_BITS))
        decision = Decider(config, index, signed).decide()
        extended = {}
        if index is not None:
            extended["index"] = extend_index(index, decision.fresh, sum(rows), phases, attempt)
        written = write_kept(files, rows, signed, decision.settled)
    for number, result in enumerate(written):
        result.adopt("documents.parquet", attempt, f"documents/{number:05d}.parquet")
    return {**_statistics(config, decision.settled, written), **extended}


class DeduplicateWorker:
    """Signs or writes documents, one file after another, and decides about blocks of them and ranges of keys."""

    def __init__(self, config: Deduplicate, index: SignatureIndex | None) -> None:
        from pipelines.minhash import MinHasher

        self._config, self._hasher, self._index = config, MinHasher(config), index
        self._kept = KeptReader()

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """A unit of this stage, of `pipelines.fates`, `pipelines.components` or `pipelines.known`, by its task."""
        task, payload = unit.payload["task"], unit.payload
        if task in _BLOCK_TASKS:
            return _BLOCK_TASKS[task](self._config, payload, output)
        if task in _RANGE_TASKS:
            return _RANGE_TASKS[task](self._index, payload, output)
        if task in _NODE_TASKS:
            return _NODE_TASKS[task](payload, output)
        if task == "index":
            assert self._index is not None, "only an index gives such units"
            return build_part(self._index, payload, output)
        return self._sign(unit, output) if task == "sign" else self._write(unit, output)

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
            for table in self._kept.tables(unit.payload):
                sizes = np.diff(utf8(table["text"])[1])
                for tally, name in ((languages, "language"), (sources, "source")):
                    for value in pc.unique(table[name]).to_pylist():
                        these = sizes[pc.equal(table[name], value).to_numpy()]
                        tally.add(value, int(these.sum()), len(these))
                yield table

        count = write_tables(output / "documents.parquet", counted())
        return {"documents": count, "languages": languages.rows(), "sources": sources.rows()}


_BLOCK_TASKS = {
    "send-keys": block_units.send_keys,
    "send-bands": block_units.send_bands,
    "link": block_units.link_block,
    "send-clusters": block_units.send_clusters,
    "settle": block_units.settle,
    "cut": cut_block,
}
_RANGE_TASKS = {"find-equals": range_units.find_equals, "find-links": range_units.find_links}
_NODE_TASKS = {
    "star": components.star,
    "least": components.least,
    "labels": components.labels,
    "choose": range_units.choose,
}


def _statistics(config: Deduplicate, settled: Results, written: Results) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    for result in written:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
    documents, sizes = (
        [sum(result.statistics[name][fate] for result in settled) for fate in Fate] for name in ("documents", "bytes")
    )
    left, size = sum(documents), sum(sizes)
    steps = [step for step in STEPS if step != "url" or config.urls]
    funnel = Funnel(steps)
    for step in steps:
        funnel.read(step, size, left)
        for fate in STEPS[step]:
            if documents[fate]:
                funnel.drop(step, fate.name.lower(), documents[fate])
            left, size = left - documents[fate], size - sizes[fate]
        funnel.keep(step, size, left)
    if (count := sum(result.statistics["documents"] for result in written)) != left:
        raise AssertionError(f"{left} documents are kept, but {count} were written")
    return {
        "funnel": funnel.rows(),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "damaged": [],
    }
