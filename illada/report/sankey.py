"""The funnel as a Sankey diagram in inline SVG: what stays flows along the top, what is lost falls off by reason.

Heights are documents, on one scale for the whole drawing. A column is a step that lost something; its greatest reasons
have a flow each, the others share one. Text is escaped by `Markup.format`, colours come from the page's style sheet.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from illada.report.facts import FunnelStep
from illada.report.units import count, percent, short_count

_PITCH, _NODE, _LEFT, _RIGHT = 112, 9, 4, 118
_HEAD, _BAND, _GAP = 62, 210, 34  # heights: titles, all documents, space above the reasons
_LINE, _SHIFT = 13, 15  # of a label; how far right of its step a reason stands
_LETTER, _NAME, _STAGE = 6.3, 6.2, 7.9  # widths of letters, about
_LEAST_WIDTH = 1100
_REASONS = 5  # flows of one step
_HAIR = 0.7  # so that a few among millions are seen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loss:
    reason: str
    documents: float
    style: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    step: FunnelStep
    x: float
    losses: Sequence[_Loss]


def draw_sankey(steps: Sequence[FunnelStep]) -> Markup | None:
    """The diagram of a funnel, None of an empty one."""
    read = steps[0].documents_in if steps else 0
    if not read:
        return None
    shown = [step for step in steps if step.documents_in > step.documents_out] or steps[:1]
    pitch = max(_PITCH, (_LEAST_WIDTH - _LEFT - _RIGHT) / len(shown))
    columns = [
        _Column(step=step, x=_LEFT + index * pitch, losses=_losses(step, read)) for index, step in enumerate(shown)
    ]
    scale = _BAND / read
    end = _LEFT + len(columns) * pitch
    letters = int((pitch - _NODE - _SHIFT - 12) / _LETTER)
    lowest = [_heights(column.losses, scale, letters)[-1] for column in columns]
    height = _HEAD + _BAND + _GAP + max(lowest)
    width = end + _RIGHT
    parts = [
        Markup('<svg class="sankey" style="min-width:{:.0f}px" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">')
        .format(width * 0.9, width, height, "Documents from step to step, and why others were lost")
    ]  # fmt: skip
    parts += _titles(columns, pitch, end)
    parts += [_draw_losses(column, scale, letters) for column in columns]
    for index, column in enumerate(columns):
        after = columns[index + 1].x if index + 1 < len(columns) else end
        parts.append(_draw_kept(column.step, column.x, after, scale))
    kept = steps[-1].documents_out
    parts.append(
        Markup(
            '<rect class="node" x="{:.1f}" y="{}" width="{}" height="{:.1f}"/><text class="total" x="{:.1f}" y="{}">{}'
            '</text><text class="figure" x="{:.1f}" y="{}">kept, {}</text></svg>'
        ).format(
            *(end, _HEAD, _NODE, max(_HAIR, kept * scale), end + _NODE + 8, _HEAD + 15, count(kept)),
            *(end + _NODE + 8, _HEAD + 31, percent(kept, read)),
        )
    )
    return Markup("").join(parts)


def _losses(step: FunnelStep, read: float) -> list[_Loss]:
    """The greatest first; failures by reason, and what is beyond the greatest reasons as one."""
    rows = [(reason, documents, "lost") for reason, documents in step.dropped]
    rows += [(f"failed: {reason}", documents, "failed") for reason, documents in step.failed]
    rows.sort(key=lambda row: (-row[1], row[0]))
    few = rows if len(rows) <= _REASONS else rows[: _REASONS - 1]
    found = [_Loss(reason=r, documents=n, style=s, title=f"{step.step}: {r}: {count(n)}") for r, n, s in few]
    if rest := rows[len(few) :]:
        title = "\n".join(f"{step.step}: {reason}: {count(documents)}" for reason, documents, _ in rest)
        total = sum(documents for _, documents, _ in rest)
        found.append(_Loss(reason=f"{len(rest)} more reasons", documents=total, style="lost", title=title))
    return found


def _label(reason: str, letters: int) -> list[str]:
    """A reason in one or two lines."""
    lines = textwrap.wrap(reason.replace("_", " "), letters) or [""]
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1][: letters - 1]}…"]


def _heights(losses: Sequence[_Loss], scale: float, letters: int) -> list[float]:
    """Where each loss's node begins below the first one's, and where the last one ends."""
    tops = [0.0]
    for loss in losses:
        lines = len(_label(loss.reason, letters)) + 1
        tops.append(tops[-1] + max(lines * _LINE, loss.documents * scale) + 9)
    return tops


def _titles(columns: Sequence[_Column], pitch: float, end: float) -> list[Markup]:
    parts = []
    for index, column in enumerate(columns):
        if index == 0 or column.step.stage != columns[index - 1].step.stage:
            last = next((c.x for c in columns[index:] if c.step.stage != column.step.stage), end)
            parts.append(
                Markup('<path class="span" d="M{:.1f} 22H{:.1f}"/><text class="stage" x="{:.1f}" y="15">{}</text>')
                .format(column.x, last - 10, column.x, _shorten(column.step.stage, int((last - column.x) / _STAGE)))
            )  # fmt: skip
        step, letters = column.step, int((pitch - 4) / _NAME)
        parts.append(
            Markup(
                '<text class="name" x="{:.1f}" y="40">{}<title>{}</title></text><text class="figure" x="{:.1f}" y="55">'
                "{}</text>"
            ).format(column.x, _shorten(step.step, letters), step.step, column.x, short_count(step.documents_in))
        )
    return parts


def _draw_kept(step: FunnelStep, x: float, after: float, scale: float) -> Markup:
    """A step's bar, and what it passes on as a band up to the next one's."""
    before, kept = step.documents_in * scale, step.documents_out * scale
    tip = f"{step.step}: {count(step.documents_in)} in, {count(step.documents_out)} out"
    return Markup(
        '<g><title>{}</title><rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"/>'
        '<rect class="node" x="{:.1f}" y="{}" width="{}" height="{:.1f}"/></g>'
    ).format(
        *(tip, x + _NODE, _HEAD, after - x - _NODE, max(_HAIR, kept)),
        *(x, _HEAD, _NODE, max(_HAIR, before)),
    )


def _draw_losses(column: _Column, scale: float, letters: int) -> Markup:
    """One flow a reason, from the bar's lower part down to where its name stands."""
    left, right = column.x + _NODE, column.x + _NODE + _SHIFT
    middle = (left + right) / 2
    start = _HEAD + column.step.documents_out * scale
    parts = []
    for loss, top in zip(column.losses, _heights(column.losses, scale, letters), strict=False):
        thick = max(_HAIR, loss.documents * scale)
        y = _HEAD + _BAND + _GAP + top
        over = f"M{left:.1f} {start:.1f}C{middle:.1f} {start:.1f} {middle:.1f} {y:.1f} {right:.1f} {y:.1f}"
        end, y_end = start + thick, y + thick
        under = f"v{thick:.1f}C{middle:.1f} {y_end:.1f} {middle:.1f} {end:.1f} {left:.1f} {end:.1f}z"
        parts.append(
            Markup(
                '<g class="{}"><title>{}</title><path d="{}"/><rect x="{:.1f}" y="{:.1f}" width="4" height="{:.1f}"/>'
            ).format(loss.style, loss.title, over + under, right, y, thick)
        )
        lines = [("reason", line) for line in _label(loss.reason, letters)] + [("figure", count(loss.documents))]
        parts += [
            Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                style, right + 8, y + 9 + index * _LINE, text
            )
            for index, (style, text) in enumerate(lines)
        ]
        parts.append(Markup("</g>"))
        start += thick
    return Markup("").join(parts)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(1, length - 1)] + "…"
