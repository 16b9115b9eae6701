"""Stage `decontaminate-documents`: documents without the text of benchmarks, before anything is trained on them.

The n-grams of all items are indexed once; the actor pool sends every document through `pipelines.cutting`. What holds
none of them is passed on as it is. Output: `documents/`, a sample in `rejected/`, and `report.json`: what was found and
what was cut, with the text around it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress, write_json
from illada.config import DataPlacement, Decontaminate
from pipelines.benchmarks import Item, removal_identity
from pipelines.cutting import BenchmarkFilter, Cut
from pipelines.decontaminate import EXAMPLES, REPORT, by_benchmark, first_examples, found_items, indexed_items
from pipelines.documents import TextDocument, document_files, read_documents, row_groups
from pipelines.funnel import Tally, main_losses, merge
from pipelines.ngrams import NgramIndex
from pipelines.pool import Results, Unit, run_units
from pipelines.recorder import Recorder
from pipelines.shared import Reference, fetch
from pipelines.step_output import to_datatrove, write_step

CLEAN = "decontaminate-documents"
DECONTAMINATE_DOCUMENTS_VERSION = 1
_STEP = "benchmarks"
_UNIT_GROUPS = 8  # Parquet row groups a unit
_REJECTED_SAMPLE = 0.05
_COUNTS = ("contaminated", "cut_documents", "cuts", "cut_characters")
_LONGEST = 2000  # characters of a cut in the report


def decontaminate_documents(
    config: Decontaminate,
    documents: Artifact,
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
    *,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Build the documents that share no n-gram with a benchmark.

    Returns statistics: funnel, languages, sources, damaged (always empty), benchmarks (by name: items, checked,
    matched, documents), contaminated documents, and cut_documents, cuts, cut_characters of those that were kept.

    Raises:
        ValueError: a benchmark cannot be read, or changed since the stage's identity was taken; nothing is left
            (unless it `may_be_empty`).
    """
    if removal_identity(config) != attempt.identity.config:
        raise ValueError("a benchmark file changed while the stage was starting; run again")
    progress.start(None, "benchmarks")
    items, index = indexed_items(config)
    shared = index.share(attempt.scratch / "index", attempt.work)
    files = document_files(documents)
    units = [
        Unit(
            name=f"{number:06d}-{first:06d}",
            payload={"file": file.reference, "first": first, "count": len(sizes[first : first + _UNIT_GROUPS])},
            weight=sum(sizes[first : first + _UNIT_GROUPS]),
        )
        for number, (file, sizes) in enumerate(zip(files, row_groups(files, attempt.work), strict=True))
        for first in range(0, len(sizes), _UNIT_GROUPS)
    ]
    factory = functools.partial(CutWorker, shared, [item.benchmark for item in items], config)
    results = run_units(units, factory, attempt.work / "units", placement, progress, "documents")
    statistics = _statistics(config, items, results)
    if not may_be_empty and not sum(result.statistics["documents"] for result in results):
        raise ValueError(f"no document is left without benchmark text: {main_losses(statistics['funnel'])}")
    for kind in ("documents", "rejected"):
        filled = (result for result in results if result.statistics[kind])
        for number, result in enumerate(filled):
            result.adopt(f"{kind}.parquet", attempt, f"{kind}/{number:05d}.parquet")
    report = {name: statistics[name] for name in ("benchmarks", *_COUNTS)}
    matched = sorted({number for result in results for number in found_items(result)})
    listed = [{"benchmark": items[number].benchmark, "item": items[number].name} for number in matched]
    report |= {"action": config.action, "matched_items": listed, "examples": first_examples(items, results)}
    write_json(attempt.output / REPORT, report)
    return statistics


class CutWorker:
    """Sends one unit of documents after another through the filter."""

    def __init__(self, index: Sequence[Reference], benchmarks: Sequence[str], config: Decontaminate) -> None:
        self._index, self._benchmarks = NgramIndex.load(*map(fetch, index)), benchmarks
        self._filter = BenchmarkFilter(self._index, config)

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """`documents.parquet`, `rejected.parquet` (a sample) and `found.json` (numbers of items); returns counts."""
        recorder = Recorder([_STEP], unit.name, _REJECTED_SAMPLE)
        counts, touched, shown = Counter[str](), Counter[str](), Counter[str]()
        found: set[int] = set()
        examples: list[dict[str, Any]] = []
        texts = read_documents(fetch(unit.payload["file"]), unit.payload["first"], unit.payload["count"])

        def kept() -> Iterator[TextDocument]:
            for text in recorder.funnel.reading(_STEP, texts):
                document = to_datatrove(text)
                verdict = self._filter.filter(document)
                if self._filter.grams:
                    owners = self._index.owners_of(list(dict.fromkeys(self._filter.grams)))
                    found.update(owners)
                    counts["contaminated"] += 1
                    touched.update({self._benchmarks[owner] for owner in owners})
                    examples.extend(self._examples(text, verdict is True, shown))
                if verdict is not True:
                    assert isinstance(verdict, tuple)
                    document.text = text.text  # as it came, not half cut
                    recorder.reject(_STEP, document, verdict[1])
                    continue
                if self._filter.cuts:
                    counts["cut_documents"] += 1
                    counts["cuts"] += len(self._filter.cuts)
                    counts["cut_characters"] += len(text.text) - len(document.text)
                    text = replace(text, text=document.text)
                yield text

        written = write_step(output, _STEP, kept(), recorder)
        write_json(output / "found.json", sorted(found))
        return {
            **written,
            "counts": {name: counts[name] for name in _COUNTS},
            "touched": dict(touched),
            "examples": examples,
        }

    def _examples(self, text: TextDocument, kept: bool, shown: Counter[str]) -> Iterator[dict[str, Any]]:
        """The first cut of a document, or the n-gram for which it was dropped whole, once a benchmark."""
        for cut in self._filter.cuts or [Cut(gram=self._filter.grams[0], before="", removed="", after="")]:
            for owner in self._index.owners_of([cut.gram])[:1]:
                name = self._benchmarks[owner]
                if shown[name] < EXAMPLES:
                    shown[name] += 1
                    yield {
                        "item": owner,
                        "document": text.id,
                        "kept": kept,
                        "before": cut.before,
                        "removed": cut.removed[:_LONGEST],
                        "after": cut.after,
                    }


def _statistics(config: Decontaminate, items: Sequence[Item], results: Results) -> dict[str, Any]:
    languages, sources, counts = Tally(), Tally(), Counter[str]()
    for result in results:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
        counts.update(result.statistics["counts"])
    return {
        "funnel": merge(result.statistics["funnel"] for result in results),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "damaged": [],
        "benchmarks": by_benchmark(config, items, results),
        **{name: counts[name] for name in _COUNTS},
    }
