"""Samples of what filters dropped, by step and reason, from the `rejected/` files of a run's artifacts.

Stages keep a sample of their rejections, chosen by the documents' ids; of those the page shows the few whose ids are
lowest, which is the same choice in every report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import Artifact, ArtifactError
from illada.report.facts import DOCUMENTS, funnel
from illada.report.plain import plain
from illada.report.view import RunView

_FILES = 32  # of each stage that are read, evenly spread over all
_SAMPLES = 3  # of each reason
_REASONS = 80
_CHARACTERS = 600
_COLUMNS = ("id", "url", "source", "language", "step", "reason", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """One document; `text` is its beginning, empty where it was given up as a page."""

    id: str
    url: str
    source: str
    language: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejections:
    """Samples of one reason of a step."""

    step: str
    reason: str
    samples: Sequence[Rejected]


def rejections(view: RunView) -> tuple[list[Rejections], list[str]]:
    """Samples by step and reason, in the order of the funnel; and what could not be read, in words."""
    found: dict[tuple[str, str], dict[str, Rejected]] = {}
    notes = []
    for artifact in filter(None, map(view.artifact, DOCUMENTS)):
        try:
            for row in _rows(artifact):
                chosen = found.setdefault((row["step"], row["reason"]), {})
                _offer(chosen, row)
        except (OSError, ArtifactError, pa.ArrowException, KeyError) as error:
            notes.append(f"{artifact.stage}: its sample of rejected documents cannot be read: {error}")
    position = {row.step: number for number, row in enumerate(funnel(view))}
    order = sorted(found, key=lambda key: (position.get(key[0], len(position)), key))
    groups = [
        Rejections(step=step, reason=reason, samples=[row for _, row in sorted(found[step, reason].items())])
        for step, reason in order[:_REASONS]
    ]
    return groups, notes


def _offer(chosen: dict[str, Rejected], row: dict[str, Any]) -> None:
    identity = row["id"]
    if identity in chosen:
        return
    if len(chosen) == _SAMPLES:
        highest = max(chosen)
        if identity >= highest:
            return
        del chosen[highest]
    cut = row["text"][:_CHARACTERS] + ("…" if len(row["text"]) > _CHARACTERS else "")
    columns = {name: plain(row[name]) for name in ("url", "source", "language")}
    chosen[identity] = Rejected(id=identity, text=plain(cut), **columns)


def _rows(artifact: Artifact) -> Iterator[dict[str, Any]]:
    names = [name for name in artifact.names if name.startswith("rejected/") and name.endswith(".parquet")]
    spread = [names[index * len(names) // _FILES] for index in range(_FILES)] if len(names) > _FILES else names
    for name in spread:
        yield from pq.read_table(artifact.path(name), columns=list(_COLUMNS)).to_pylist()
