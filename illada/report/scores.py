"""How the quality classifier scored the documents of each language and source, as small histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from illada.report.facts import pick
from illada.report.metrics import number
from illada.report.view import RunView

_WIDTH, _HEIGHT = 200, 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """The scores of one language or source, over [0, 1] in equal bins."""

    kind: str
    name: str
    scored: float
    kept: float
    histogram: Markup


def distributions(view: RunView) -> list[Distribution]:
    """By language, then by source, those with the most documents first; none without a classifier."""
    found = []
    for kind, key in (("language", "languages"), ("source", "sources")):
        groups = pick(view.artifact("quality"), "scores", key)
        rows = []
        for name, row in (groups if isinstance(groups, Mapping) else {}).items():
            counts = [number(count) or 0.0 for count in row.get("scores", ())] if isinstance(row, Mapping) else []
            if counts:
                kept = number(row.get("kept")) or 0.0
                drawn = _histogram(counts)
                rows.append(Distribution(kind=kind, name=str(name), scored=sum(counts), kept=kept, histogram=drawn))
        found += sorted(rows, key=lambda row: (-row.scored, row.name))
    return found


def thresholds(view: RunView) -> list[tuple[str, float]]:
    """The least scores that were kept, by language; of all under an empty name."""
    values = pick(view.artifact("quality"), "thresholds")
    rows = values.items() if isinstance(values, Mapping) else ()
    return [(str(name), value) for name, raw in rows if (value := number(raw)) is not None]


def _histogram(counts: Sequence[float]) -> Markup:
    most, step = max(counts) or 1.0, _WIDTH / len(counts)
    bars = "".join(
        f"M{index * step + step / 2:.1f} {_HEIGHT}V{_HEIGHT - (_HEIGHT - 2) * count / most:.1f}"
        for index, count in enumerate(counts)
        if count
    )
    return Markup(
        '<svg class="bars" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="scores from 0 to 1">'
        '<path d="{}" stroke-width="{:.1f}"/></svg>'
    ).format(_WIDTH, _HEIGHT, _WIDTH, _HEIGHT, bars, step - 1.5)
