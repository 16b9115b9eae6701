"""The training record of one stage, read from its artifact's metrics.jsonl and events.jsonl in bounded memory.

A run of millions of steps is averaged into at most `BINS` points, so the page stays small; a short run is shown step
by step. Both files are read as streams.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.artifacts import Artifact

BINS = 500
LEVELS = 10
_FIGURES = ("loss", "lr", "grad_norm", "tokens_per_second", "masked_fraction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One step, or the mean over the steps `first` to `last`. Figures not recorded are None."""

    first: float
    last: float
    figures: dict[str, float | None]
    by_noise: tuple[float | None, ...]
    loss_by_noise: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of events.jsonl; `detail` is every other field of it."""

    kind: str
    step: float | None
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecord:
    """What training wrote; `skipped` counts updates left out, `notes` says what could not be read."""

    points: Sequence[Point]
    skipped: int
    events: Sequence[Event]
    notes: Sequence[str]


def read_training(artifact: Artifact) -> TrainingRecord:
    """The record of a training stage; a missing or damaged file becomes a note, not an error."""
    notes: list[str] = []
    points: list[Point] = []
    skipped = 0
    events: list[Event] = []
    try:
        points, skipped = _points(artifact.path("metrics.jsonl"))
    except (OSError, ValueError) as error:
        notes.append(f"{artifact.stage}: its metrics cannot be read: {error}")
    try:
        events = [
            Event(
                kind=str(row.get("event", "")),
                step=number(row.get("step")),
                detail={key: value for key, value in row.items() if key not in ("event", "step")},
            )
            for row in _rows(artifact.path("events.jsonl"))
        ]
    except (OSError, ValueError) as error:
        notes.append(f"{artifact.stage}: its events cannot be read: {error}")
    return TrainingRecord(points=points, skipped=skipped, events=events, notes=notes)


def smooth(values: Sequence[float | None], width: int) -> list[float | None]:
    """Centred moving mean over `width` values, fewer at the ends; gaps are left out, None where all is gap."""
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    result: list[float | None] = []
    for index in range(len(values)):
        low, high = max(0, index - width // 2), min(len(values), index + width // 2 + 1)
        found = counts[high] - counts[low]
        result.append((sums[high] - sums[low]) / found if found else None)
    return result


def number(value: Any) -> float | None:
    """`value` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _points(path: Path) -> tuple[list[Point], int]:
    with path.open("rb") as file:
        total = sum(1 for _ in file)
    bins, skipped = min(total, BINS), 0
    points: list[Point] = []
    group: list[dict[str, Any]] = []
    for index, row in enumerate(_rows(path)):
        group.append(row)
        skipped += bool(row.get("skipped"))
        if (index + 1) * bins // total > len(points):
            points.append(_mean(group))
            group = []
    return points, skipped


def _mean(rows: Sequence[dict[str, Any]]) -> Point:
    return Point(
        first=number(rows[0].get("step")) or 0.0,
        last=number(rows[-1].get("step")) or 0.0,
        figures={name: _average([row.get(name) for row in rows]) for name in _FIGURES},
        by_noise=tuple(_average([_level(row, "by_noise", level) for row in rows]) for level in range(LEVELS)),
        loss_by_noise=tuple(_loss(rows, level) for level in range(LEVELS)),
    )


def _loss(rows: Sequence[dict[str, Any]], level: int) -> float | None:
    """Mean loss of the positions at a noise level, those of all rows alike."""
    total = positions = 0.0
    for row in rows:
        loss, count = (number(_level(row, name, level)) for name in ("loss_by_noise", "positions_by_noise"))
        if loss is not None and count is not None:
            total, positions = total + loss * count, positions + count
    return total / positions if positions else None


def _level(row: dict[str, Any], name: str, level: int) -> Any:
    values = row.get(name)
    return values[level] if isinstance(values, list) and level < len(values) else None


def _average(values: Sequence[Any]) -> float | None:
    found = [value for value in map(number, values) if value is not None]
    return sum(found) / len(found) if found else None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{path}: a line is not a JSON object")
            yield row
