"""Stage `quality`: every document is scored by the classifier, and the best of them are kept.

The actor pool scores all documents; one process takes the threshold from all scores, so that exactly the asked share is
kept (and what ties with the last one); the pool writes what reaches it, with its score. Code passes unscored. Given
`thresholds`, those decide: the documents of a refresh are judged as those of the corpus's first snapshot.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.artifacts import Artifact, ArtifactError, Attempt, Progress, sha256_file
from illada.config import DataPlacement, Quality
from pipelines.documents import DocumentFile, document_files, read_documents, row_groups
from pipelines.funnel import Tally, merge
from pipelines.languages import is_code
from pipelines.pool import ActorPool, Results, Unit
from pipelines.quality_model import MODEL
from pipelines.shared import Reference, fetch, load_array, reference, share_array

QUALITY_VERSION = 1
ALL = ""
"""The group of all languages together, in thresholds and distributions."""
BINS = 20
"""Of the distribution of scores, over [0, 1]."""
_STEP = "quality"
_UNIT_GROUPS = 8  # Parquet row groups a unit

Thresholds = Mapping[str, float]
"""The least score that is kept, by language, and of all under ALL."""
Scores = npt.NDArray[np.float32]


def select_by_quality(
    config: Quality,
    documents: Artifact,
    model: Artifact,
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Build the better documents of an artifact.

    Returns statistics: funnel, languages, sources, damaged (always empty), thresholds, and scores (distributions of all
    documents, by language and source: {"scores": counts in BINS, "kept": documents}).

    Raises:
        ValueError: there is nothing to take a threshold from.
    """
    files = document_files(documents)
    groups = row_groups(files, attempt.work)
    units = _units(files, groups)
    factory = functools.partial(QualityWorker, config, reference(model, MODEL))
    with ActorPool(factory, placement) as pool:
        scored = pool.run(_score_units(units), attempt.work / "scored", progress, "documents")
        scores = np.concatenate([np.empty(0, np.float32), *(np.load(result.path("scores.npy")) for result in scored)])
        if thresholds is None:
            thresholds = find_thresholds(config.keep, scores, _languages(scored) if config.by_language else None)
        shared = share_array(scores, "scores", attempt.scratch, attempt.work)
        written = pool.run(_write_units(units, shared, thresholds), attempt.work / "written", progress, "documents")
    for kind in ("documents", "rejected"):
        filled = (result for result in written if result.statistics[kind])
        for number, result in enumerate(filled):
            result.adopt(f"{kind}.parquet", attempt, f"{kind}/{number:05d}.parquet")
    return {**_statistics(written), "thresholds": dict(thresholds)}


def find_thresholds(keep: float, scores: Scores, languages: npt.NDArray[np.str_] | None) -> dict[str, float]:
    """The scores that the share `keep` of documents reaches, of all and, where `languages` [n] are given, of each.

    `scores` [n] are NaN for documents that have none. Raises ValueError when that is all of them.
    """
    counted = ~np.isnan(scores)
    if not counted.any():
        raise ValueError("data.quality: there is no document to score; every one is code, or none is left")
    found = {ALL: _threshold(scores[counted], keep)}
    if languages is not None:
        for language in np.unique(languages[counted]).tolist():
            found[language] = _threshold(scores[counted & (languages == language)], keep)
    return found


def _threshold(scores: Scores, keep: float) -> float:
    rank = min(math.ceil(keep * len(scores)), len(scores))
    return float(np.partition(scores, len(scores) - rank)[len(scores) - rank])


class QualityWorker:
    """Scores or writes documents, some row groups after the other."""

    def __init__(self, config: Quality, model: Reference) -> None:
        self._config, self._model = config, model
        self._scorer: Any = None

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """A unit of `_score_units` or of `_write_units`."""
        return (self._score if unit.payload["task"] == "score" else self._write)(unit, output)

    def _score(self, unit: Unit, output: Path) -> dict[str, Any]:
        """`scores.npy` (float32 [n], NaN where there is none) and `languages.npy` of a unit's documents."""
        from datatrove.data import Document

        from pipelines.classifier import SCORE, QualityScorer

        self._scorer = self._scorer or QualityScorer(_verified(self._model))
        texts = (
            Document(text=text.text, id=text.id, metadata={"language": text.language, "kind": _kind(text.language)})
            for text in read_documents(fetch(unit.payload["file"]), unit.payload["first"], unit.payload["count"])
        )
        rows = [
            (document.metadata.get(SCORE, math.nan), document.metadata["language"])
            for document in self._scorer.run(texts)
        ]
        np.save(output / "scores.npy", np.array([score for score, _ in rows], np.float32))
        np.save(output / "languages.npy", np.array([language for _, language in rows], np.str_))
        return {"documents": len(rows)}

    def _write(self, unit: Unit, output: Path) -> dict[str, Any]:
        """`documents.parquet` and a sample in `rejected.parquet`; returns their counts, funnel and distributions."""
        from pipelines.recorder import Recorder
        from pipelines.step_output import to_datatrove, write_step

        payload = unit.payload
        recorder = Recorder([_STEP], unit.name, self._config.rejected_sample)
        distributions = {name: _Distribution() for name in ("languages", "sources")}
        scores = load_array(payload["scores"])[payload["begin"] :]
        thresholds = payload["thresholds"]
        texts = read_documents(fetch(payload["file"]), payload["first"], payload["count"])

        def kept() -> Iterator[Any]:
            for text, single in zip(recorder.funnel.reading(_STEP, texts), scores, strict=False):
                score = float(single)
                if not math.isnan(score):
                    good = score >= thresholds.get(text.language, thresholds[ALL])
                    distributions["languages"].add(text.language, score, good)
                    distributions["sources"].add(text.source, score, good)
                    if not good:
                        recorder.reject(_STEP, to_datatrove(text), "low_quality")
                        continue
                    text = replace(text, quality=score)
                yield text

        return {
            **write_step(output, _STEP, kept(), recorder),
            "scores": {name: distribution.rows() for name, distribution in distributions.items()},
        }


def _verified(model: Reference) -> Path:
    """A local path of the model, after reading all of it: what loads it trusts every byte. Raises ArtifactError."""
    path = fetch(model)
    if sha256_file(path) != model["sha256"]:
        raise ArtifactError(f"{model['url']}: is not the model that was trained; build its stage again")
    return path


class _Distribution:
    """Counts of scores by group."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._kept: dict[str, int] = {}

    def add(self, group: str, score: float, kept: bool) -> None:
        """Count one document."""
        self._counts.setdefault(group, [0] * BINS)[min(int(score * BINS), BINS - 1)] += 1
        self._kept[group] = self._kept.get(group, 0) + kept

    def update(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what another one counted."""
        for group, row in rows.items():
            counts = self._counts.setdefault(group, [0] * BINS)
            self._counts[group] = [a + b for a, b in zip(counts, row["scores"], strict=True)]
            self._kept[group] = self._kept.get(group, 0) + row["kept"]

    def rows(self) -> dict[str, dict[str, Any]]:
        """{group: {"scores", "kept"}}, groups sorted."""
        return {group: {"scores": counts, "kept": self._kept[group]} for group, counts in sorted(self._counts.items())}


def _kind(language: str) -> str:
    return "code" if is_code(language) else "text"


def _units(files: list[DocumentFile], groups: list[list[int]]) -> list[Unit]:
    """Some row groups each; `begin` is the number of the unit's first document among all."""
    units, begin = [], 0
    for number, (file, sizes) in enumerate(zip(files, groups, strict=True)):
        for first in range(0, len(sizes), _UNIT_GROUPS):
            some = sizes[first : first + _UNIT_GROUPS]
            payload = {"file": file.reference, "first": first, "count": len(some), "begin": begin}
            units.append(Unit(name=f"{number:06d}-{first:06d}", payload=payload, weight=sum(some)))
            begin += sum(some)
    return units


def _score_units(units: list[Unit]) -> list[Unit]:
    return [replace(unit, payload={**unit.payload, "task": "score"}) for unit in units]


def _write_units(units: list[Unit], scores: Reference, thresholds: Thresholds) -> list[Unit]:
    more = {"task": "write", "scores": dict(scores), "thresholds": dict(thresholds)}
    return [replace(unit, payload={**unit.payload, **more}) for unit in units]


def _languages(scored: Results) -> npt.NDArray[np.str_]:
    return np.concatenate([np.empty(0, np.str_), *(np.load(result.path("languages.npy")) for result in scored)])


def _statistics(written: Results) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    distributions = {name: _Distribution() for name in ("languages", "sources")}
    for result in written:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
        for name, distribution in distributions.items():
            distribution.update(result.statistics["scores"][name])
    return {
        "funnel": merge(result.statistics["funnel"] for result in written),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "damaged": [],
        "scores": {name: distribution.rows() for name, distribution in distributions.items()},
    }
