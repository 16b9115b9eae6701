"""Line and interval charts as inline SVG: no script, no outside resource, colours from the page's style sheet.

Light and dark come for free because every stroke is a CSS class. Tooltips are `<title>` elements on invisible columns,
which also draw a hair line while the pointer is over them. All text goes through `Markup.format`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from illada.report.units import decimal

Points = Sequence[tuple[float, float | None]]
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 24, 26  # room for tick labels, also when a phone enlarges them


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve; `style` is its CSS class. Gaps (None) interrupt it."""

    points: Points
    label: str
    style: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """Something that happened at step `x`: "checkpoint" (a mark on the axis) or "restart" (a dashed line)."""

    x: float
    kind: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hover:
    """A column of the chart, from `start` to `end` on the x axis, and what its tooltip says."""

    start: float
    end: float
    text: str


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `wanted` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def span(lines: Iterable[Line], fraction: float = 0.0) -> tuple[float, float]:
    """Range of the curves' values; `fraction` of them may fall outside at either end (spikes are cut, not followed)."""
    values = sorted(value for line in lines for _, value in line.points if value is not None)
    if not values:
        return 0.0, 1.0
    cut = int(len(values) * fraction)
    low, high = values[cut], values[-1 - cut]
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = abs(high) / 10 or 0.5
        return low - pad, high + pad
    return low, high


def line_chart(
    *,
    name: str,
    title: str,
    unit: str,
    lines: Sequence[Line],
    y_range: tuple[float, float],
    y_format: Callable[[float], str],
    markers: Sequence[Marker] = (),
    guide: tuple[float, str] | None = None,
    hovers: Sequence[Hover] = (),
    width: int = 580,
    height: int = 300,
) -> Markup:
    """Curves over training steps. `name` must be unique on the page; `guide` is a labelled horizontal reference."""
    steps = [x for line in lines for x, _ in line.points] + [marker.x for marker in markers]
    x_low, x_high = (min(steps), max(steps)) if steps else (0.0, 1.0)
    if x_high <= x_low:
        x_low, x_high = x_low - 1, x_high + 1
    pad = (y_range[1] - y_range[0]) * 0.06
    y_low, y_high = y_range[0] - (pad if y_range[0] > 0 or y_range[0] < -pad else 0), y_range[1] + pad
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def px(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * inner_width

    def py(y: float) -> float:
        return _TOP + (y_high - y) / (y_high - y_low) * inner_height

    bottom = _TOP + inner_height
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, title),
        Markup('<clipPath id="{}-clip"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>').format(
            name, _LEFT, _TOP, inner_width, inner_height
        ),
        Markup('<text class="unit" x="{}" y="13">{}</text>').format(4, unit),
    ]
    for y in ticks(y_low, y_high, 4 if height < 260 else 5):
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}h{}"/><text class="tick y" x="{}" y="{:.1f}">{}</text>').format(
                _LEFT, py(y), inner_width, _LEFT - 7, py(y) + 4, y_format(y)
            )
        )
    for x in ticks(x_low, x_high, 6 if width > 450 else 4):
        parts.append(
            Markup('<path class="stub" d="M{:.1f} {}v5"/><text class="tick x" x="{:.1f}" y="{}">{}</text>').format(
                px(x), bottom, px(x), bottom + 19, _step_label(x)
            )
        )
    parts.append(Markup('<path class="axis" d="M{} {}h{}"/>').format(_LEFT, bottom, inner_width))
    parts.append(Markup('<text class="tick y" x="{}" y="{}">step</text>').format(_LEFT - 7, bottom + 19))
    if guide is not None and y_low <= guide[0] <= y_high:
        y = py(guide[0])
        parts.append(
            Markup('<path class="guide" d="M{} {:.1f}h{}"/><text class="note" x="{}" y="{:.1f}">{}</text>').format(
                _LEFT, y, inner_width, width - _RIGHT - 4, y + 14, guide[1]
            )
        )
    parts.append(Markup('<g clip-path="url(#{}-clip)">').format(name))
    parts += [
        Markup('<path class="curve {}" d="{}"><title>{}</title></path>').format(
            line.style, _path(line.points, px, py), line.label
        )
        for line in lines
    ]
    parts.append(Markup("</g>"))
    for hover in hovers:
        left, right = px(hover.start), px(hover.end)
        parts.append(
            Markup(
                '<g class="hover"><rect x="{:.1f}" y="{}" width="{:.1f}" height="{}"/><path d="M{:.1f} {}v{}"/>'
                "<title>{}</title></g>"
            ).format(
                left, _TOP, max(right - left, 0.5), inner_height, (left + right) / 2, _TOP, inner_height, hover.text
            )
        )
    for marker in markers:
        shape = (
            f"M{px(marker.x):.1f} {bottom}l-4.5 -8h9z"
            if marker.kind == "checkpoint"
            else (f"M{px(marker.x):.1f} {_TOP}v{inner_height}")
        )
        parts.append(
            Markup('<path class="marker {}" d="{}"><title>{}</title></path>').format(marker.kind, shape, marker.title)
        )
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def interval_chart(rows: Sequence[tuple[str, float, float, str]], unit: str) -> Markup:
    """Estimates with 95% intervals, one line each. A row is (label, mean, standard error, CSS class)."""
    width, left, row_height = 580, 92, 34
    height = row_height * len(rows) + 42
    low = min(mean - 1.96 * error for _, mean, error, _ in rows)
    high = max(mean + 1.96 * error for _, mean, error, _ in rows)
    pad = (high - low) * 0.12 or 0.1
    low, high = low - pad, high + pad

    def px(x: float) -> float:
        return left + (x - low) / (high - low) * (width - left - 20)

    bottom = row_height * len(rows) + 6
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, unit),
        Markup('<path class="axis" d="M{} {}h{}"/>').format(left, bottom, width - left - 20),
    ]
    for x in ticks(low, high, 5):
        parts.append(
            Markup('<path class="grid" d="M{:.1f} 4V{}"/><text class="tick x" x="{:.1f}" y="{}">{}</text>').format(
                px(x), bottom, px(x), bottom + 17, decimal(x, 2 if high - low > 0.1 else 3)
            )
        )
    parts.append(Markup('<text class="unit end" x="{}" y="{}">{}</text>').format(width - 20, height - 3, unit))
    for index, (label, mean, error, style) in enumerate(rows):
        y = index * row_height + row_height / 2 + 4
        start, end = px(mean - 1.96 * error), px(mean + 1.96 * error)
        parts.append(
            Markup(
                '<g class="interval {}"><title>{}: {} ± {} (standard error)</title>'
                '<text class="label" x="{}" y="{}">{}</text>'
                '<path d="M{:.1f} {}H{:.1f}M{:.1f} {}v10M{:.1f} {}v10"/><circle cx="{:.1f}" cy="{}" r="5"/></g>'
            ).format(
                *(style, label, decimal(mean, 4), decimal(error, 4)),
                *(left - 12, y + 4, label),
                *(start, y, end, start, y - 5, end, y - 5, px(mean), y),
            )
        )
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _path(points: Points, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    """SVG path data; a point between two gaps becomes a zero-length stroke, which round caps make visible."""
    pieces: list[str] = []
    pen_down = False
    for x, y in points:
        if y is None:
            pen_down = False
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{px(x):.1f} {py(y):.1f}{'' if pen_down else 'h0'}")
        pen_down = True
    return "".join(pieces)


def _step_label(x: float) -> str:
    if abs(x - round(x)) > 1e-9:
        return f"{x:g}"
    whole = round(x)
    return f"{whole / 1000:g}k" if abs(whole) >= 10_000 else str(whole)
