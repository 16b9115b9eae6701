"""Stage `decontaminate`: which documents share a run of words with a benchmark, and which items were found.

Only a report: what removes is `pipelines.decontaminate_documents`. As for GPT-3 (arXiv 2005.14165) an item counts as
found when a document holds a run of 13 of its words. Items without so long a text cannot be told from chance and are
counted as not checked. The benchmarks' n-grams are indexed once; the actor pool looks for them in all documents,
held-out ones included, and in the conversations for tuning. Output: `report.json`.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Folder, Progress, write_json
from illada.config import DataPlacement, Decontaminate
from pipelines.benchmarks import Item, decontaminate_identity, read_items
from pipelines.documents import DocumentFile, document_files, read_documents, row_groups
from pipelines.ngrams import NgramIndex, words
from pipelines.pool import Results, Unit, UnitResult, run_units
from pipelines.shared import Reference, fetch

DECONTAMINATE_VERSION = 1
REPORT = "report.json"
_UNIT_GROUPS = 8  # Parquet row groups a unit
EXAMPLES = 20  # of a benchmark
_PAIRS = "pairs.parquet"


def decontaminate(
    config: Decontaminate,
    corpora: Mapping[str, Artifact],
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
) -> dict[str, Any]:
    """Build the report on `corpora`: artifacts with `documents/`, or with `pairs.parquet`, by name.

    Returns statistics: ngram, documents, contaminated_documents, covers (fingerprints of the corpora, by name),
    benchmarks (by name: items, checked, matched, documents).

    Raises:
        ValueError: a benchmark cannot be read, or changed since the stage's identity was taken.
    """
    if decontaminate_identity(config) != attempt.identity.config:
        raise ValueError("a benchmark file changed while the stage was starting; run again")
    progress.start(None, "benchmarks")
    items, index = indexed_items(config)
    shared = index.share(attempt.scratch / "index", attempt.work)
    units = [unit for name, artifact in corpora.items() for unit in _units(name, artifact, attempt.work)]
    factory = functools.partial(SearchWorker, shared, [item.benchmark for item in items])
    results = run_units(units, factory, attempt.work / "units", placement, progress, "documents")
    statistics = {
        "ngram": config.ngram,
        "documents": sum(result.statistics["documents"] for result in results),
        "contaminated_documents": sum(result.statistics["contaminated"] for result in results),
        "covers": {name: artifact.fingerprint for name, artifact in corpora.items()},
        "benchmarks": by_benchmark(config, items, results),
    }
    matched = sorted({number for result in results for number in found_items(result)})
    write_json(
        attempt.output / REPORT,
        {
            **statistics,
            "matched_items": [{"benchmark": items[number].benchmark, "item": items[number].name} for number in matched],
            "examples": first_examples(items, results),
        },
    )
    return statistics


def indexed_items(config: Decontaminate) -> tuple[list[Item], NgramIndex]:
    """All items, and the index of their n-grams, whose owners are the items' numbers."""
    items = [item for benchmark in config.benchmarks for item in read_items(benchmark)]
    texts = ((number, text) for number, item in enumerate(items) for text in item.texts)
    return items, NgramIndex.build(texts, config.ngram)


class SearchWorker:
    """Looks for the indexed n-grams in one unit after another."""

    def __init__(self, index: Sequence[Reference], benchmarks: Sequence[str]) -> None:
        self._index, self._benchmarks = NgramIndex.load(*map(fetch, index)), benchmarks

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Write `found.json` (numbers of the items found); returns counts and the first examples of each benchmark."""
        documents = contaminated = 0
        found: set[int] = set()
        touched: Counter[str] = Counter()
        examples: list[dict[str, Any]] = []
        shown: Counter[str] = Counter()
        for identity, texts in _texts(unit.payload):
            documents += 1
            grams = {gram: text for text in texts for gram, text in self._index.find(text)}
            if not grams:
                continue
            contaminated += 1
            owners = self._index.owners_of(list(grams))
            found.update(owners)
            benchmarks = {self._benchmarks[owner] for owner in owners}
            touched.update(benchmarks)
            for gram, text in grams.items():
                for owner in self._index.owners_of([gram]):
                    name = self._benchmarks[owner]
                    if name in benchmarks and shown[name] < EXAMPLES:
                        benchmarks.discard(name)  # one example a document and benchmark
                        shown[name] += 1
                        examples.append({"item": owner, "document": identity, "ngram": text})
        write_json(output / "found.json", sorted(found))
        return {"documents": documents, "contaminated": contaminated, "touched": dict(touched), "examples": examples}


def _units(name: str, artifact: Artifact, work: Folder) -> Iterator[Unit]:
    files = document_files(artifact) or [DocumentFile(artifact=artifact, name=_PAIRS)]
    for number, (file, groups) in enumerate(zip(files, row_groups(files, work, f"row-groups-{name}"), strict=True)):
        for first in range(0, len(groups), _UNIT_GROUPS):
            some = groups[first : first + _UNIT_GROUPS]
            yield Unit(
                name=f"{name}-{number:06d}-{first:06d}",
                payload={"file": file.reference, "pairs": file.name == _PAIRS, "first": first, "count": len(some)},
                weight=sum(some),
            )


def _texts(payload: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(id, texts) of each document or conversation of a unit."""
    path, first, count = fetch(payload["file"]), payload["first"], payload["count"]
    if not payload["pairs"]:
        for document in read_documents(path, first, count):
            yield document.id, [document.text]
        return
    with pq.ParquetFile(path) as file:
        for group in range(first, first + count):
            for row in file.read_row_group(group, columns=["id", "messages"]).to_pylist():
                yield row["id"], [message["content"] for message in json.loads(row["messages"])]


def found_items(result: UnitResult) -> list[int]:
    """Numbers of the items that a unit found."""
    numbers: list[int] = json.loads(result.path("found.json").read_text(encoding="utf-8"))
    return numbers


def by_benchmark(config: Decontaminate, items: Sequence[Item], results: Results) -> dict[str, Any]:
    """{benchmark: {"items", "checked", "matched", "documents"}}."""
    matched = {number for result in results for number in found_items(result)}
    touched: Counter[str] = Counter()
    for result in results:
        touched.update(result.statistics["touched"])
    rows: dict[str, Any] = {
        benchmark.name: {"items": 0, "checked": 0, "matched": 0, "documents": touched[benchmark.name]}
        for benchmark in config.benchmarks
    }
    for number, item in enumerate(items):
        row = rows[item.benchmark]
        row["items"] += 1
        row["checked"] += any(len(words(text)) >= config.ngram for text in item.texts)
        row["matched"] += number in matched
    return rows


def first_examples(items: Sequence[Item], results: Results) -> list[dict[str, Any]]:
    """The first ones of each benchmark, in the order of the documents."""
    examples, shown = [], Counter[str]()
    for result in results:
        for example in result.statistics["examples"]:
            item = items[example["item"]]
            shown[item.benchmark] += 1
            if shown[item.benchmark] <= EXAMPLES:
                examples.append({**example, "benchmark": item.benchmark, "item": item.name})
    return examples
