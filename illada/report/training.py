"""The charts of one training stage: loss, the same by noise level, learning rate, gradient norm, throughput."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from illada.artifacts import Artifact
from illada.report.charts import Hover, Line, Marker, line_chart, span
from illada.report.metrics import LEVELS, Event, Point, TrainingRecord, read_training, smooth
from illada.report.units import NARROW, count, decimal, duration, short_count, size

_HOVERS = 160
_MOST_MARKS = 120  # drawn of either kind; all are counted
_MOST_CHARACTERS = 200
_DETAILS: dict[str, Callable[[float], str]] = {"bytes": size, "seconds": duration}  # how to write fields of an event


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCharts:
    """One training stage, drawn. `checkpoints` and `restarts` are counts of what the axis shows."""

    stage: str
    loss: Markup
    by_noise: Markup
    small: Sequence[Markup]
    checkpoints: int
    restarts: int
    skipped: int
    smoothed_over: int
    happenings: Sequence[tuple[str, str, str]]
    notes: Sequence[str]


def draw_training(artifact: Artifact, vocabulary: int | None) -> TrainingCharts:
    """Read the record of a training stage and draw it; `vocabulary` gives the loss of a uniform guess, as a guide."""
    record = read_training(artifact)
    name, points = artifact.stage, record.points
    checkpoints, restarts = _checkpoints(record), _restarts(record)
    markers = [*_thinned(checkpoints), *_thinned(restarts)]
    reach = max(1, len(points) // 20)
    steps_a_point = (points[0].last - points[0].first + 1) if points else 1
    raw = _column(points, "loss")
    smoothed = smooth(raw, reach)
    levels = [smooth([point.by_noise[level] for point in points], reach) for level in range(LEVELS)]
    weighted = [smooth([point.loss_by_noise[level] for point in points], reach) for level in range(LEVELS)]
    loss = [
        Line(points=_over(points, raw), label="loss of each step", style="raw"),
        Line(points=_over(points, smoothed), label="moving mean", style="mean"),
    ]
    low, high = span(loss[:1], 0.01)
    return TrainingCharts(
        stage=name,
        loss=line_chart(
            name=f"{name}-loss",
            title=f"{name}: loss over steps",
            unit="nats per token",
            lines=loss,
            y_range=(low, high),
            y_format=_short,
            markers=markers,
            guide=_uniform(vocabulary),
            hovers=_hovers(points, lambda i: f"loss {_value(raw[i])}, mean {_value(smoothed[i])}"),
        ),
        by_noise=_noise_chart(name, "cross-entropy", "nats per masked token", points, levels),
        small=[
            _noise_chart(name, "loss", "loss by noise level, nats per token", points, weighted, width=380, height=220),
            *(_small(name, points, markers, *chart, reach) for chart in _SMALL),
        ],
        checkpoints=len(checkpoints),
        restarts=len(restarts),
        skipped=record.skipped,
        smoothed_over=round(reach * steps_a_point),
        happenings=[(event.kind, _at(event), _detail(event)) for event in record.events],
        notes=record.notes,
    )


# figure, title, unit, smoothed
_SMALL = (
    ("lr", "learning rate", "learning rate", False),
    ("grad_norm", "gradient norm", "gradient norm, before clipping", True),
    ("tokens_per_second", "throughput", "tokens per second", True),
)


def _noise_chart(
    name: str,
    figure: str,
    unit: str,
    points: Sequence[Point],
    levels: Sequence[Sequence[float | None]],
    width: int = 580,
    height: int = 300,
) -> Markup:
    lines = [
        Line(points=_over(points, values), label=f"noise level {_level(index)}", style=f"n{index}")
        for index, values in enumerate(levels)
    ]
    return line_chart(
        name=f"{name}-noise-{figure}",
        title=f"{name}: {figure} by noise level over steps",
        unit=unit,
        lines=lines,
        y_range=span(lines, 0.01),
        y_format=_short,
        hovers=_hovers(
            points, lambda i: "\n".join(f"{_level(k)}: {_value(values[i])}" for k, values in enumerate(levels))
        ),
        width=width,
        height=height,
    )


def _small(
    name: str,
    points: Sequence[Point],
    markers: Sequence[Marker],
    figure: str,
    title: str,
    unit: str,
    smoothed: bool,
    reach: int,
) -> Markup:
    values = _column(points, figure)
    lines = [Line(points=_over(points, values), label=title, style="raw" if smoothed else "mean")]
    if smoothed:
        lines.append(Line(points=_over(points, smooth(values, reach)), label="moving mean", style="mean"))
    return line_chart(
        name=f"{name}-{figure}",
        title=f"{name}: {title} over steps",
        unit=unit,
        lines=lines,
        y_range=(0.0, span(lines[:1], 0.01 if smoothed else 0.0)[1]),
        y_format=_short,
        markers=markers,
        hovers=_hovers(points, lambda i: f"{title} {_value(values[i])}"),
        width=380,
        height=220,
    )


def _checkpoints(record: TrainingRecord) -> list[Marker]:
    return [
        Marker(x=event.step, kind="checkpoint", title=f"checkpoint of step {count(event.step)}")
        for event in record.events
        if event.kind == "checkpoint" and event.step is not None
    ]


def _restarts(record: TrainingRecord) -> list[Marker]:
    """Every start but the first: where training went on, and why it had stopped."""
    markers: list[Marker] = []
    reasons: list[str] = []
    starts = 0
    for event in record.events:
        if event.kind in ("restart", "fallback"):
            reasons.append(str(event.detail.get("reason", event.kind)))
        elif event.kind == "start" and event.step is not None:
            starts += 1
            if starts > 1:
                why = f": {'; '.join(reasons)[:_MOST_CHARACTERS]}" if reasons else ""
                markers.append(
                    Marker(x=event.step, kind="restart", title=f"went on from step {count(event.step)}{why}")
                )
            reasons = []
    return markers


def _thinned(markers: Sequence[Marker]) -> Sequence[Marker]:
    return markers[:: math.ceil(len(markers) / _MOST_MARKS) or 1]


def _hovers(points: Sequence[Point], text: Callable[[int], str]) -> list[Hover]:
    """Columns that together cover the curve, each around the point its tooltip tells of."""
    chosen = range(0, len(points), max(1, math.ceil(len(points) / _HOVERS)))
    centres = [_middle(points[index]) for index in chosen]
    between = [(left + right) / 2 for left, right in pairwise(centres)]
    return [
        Hover(start=start, end=end, text=f"{_steps(points[index])}\n{text(index)}")
        for index, start, end in zip(chosen, [*centres[:1], *between], [*between, *centres[-1:]], strict=True)
    ]


def _steps(point: Point) -> str:
    if point.first == point.last:
        return f"step {count(point.first)}"
    return f"steps {count(point.first)} to {count(point.last)}, mean"


def _column(points: Sequence[Point], figure: str) -> list[float | None]:
    return [point.figures[figure] for point in points]


def _over(points: Sequence[Point], values: Sequence[float | None]) -> list[tuple[float, float | None]]:
    return [(_middle(point), value) for point, value in zip(points, values, strict=True)]


def _middle(point: Point) -> float:
    return (point.first + point.last) / 2


def _uniform(vocabulary: int | None) -> tuple[float, str] | None:
    if vocabulary is None or vocabulary < 2:
        return None
    return math.log(vocabulary), f"a uniform guess, ln {count(vocabulary)} = {decimal(math.log(vocabulary), 2)}"


def _level(index: int) -> str:
    return f"t {index / LEVELS:.1f} to {(index + 1) / LEVELS:.1f}"


def _value(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:.4g}"


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}{NARROW}k" if abs(value) < 1e6 else short_count(value)
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _at(event: Event) -> str:
    return "" if event.step is None else f"step {count(event.step)}"


_UNTOLD = ("time", "windows")  # the numbers of a whole batch's windows may be thousands


def _detail(event: Event) -> str:
    figures = {name: value for name, value in event.detail.items() if name not in _UNTOLD and value is not None}
    return ", ".join(f"{name} {_DETAILS.get(name, str)(value)}" for name, value in figures.items())
