"""The chain as a drawing: stages in columns from left to right, one card each, joined by what each was built from.

Solid edges are the inputs recorded in the artifacts, less those another path already implies (transitive reduction);
dashed ones lead to stages that have not been built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from illada.report.chain import ACQUIRE, COLUMNS, PLACES, STACK, build_seconds, expected_parents, state_class
from illada.report.units import duration
from illada.report.view import RunView, StageView

_WIDTH, _CARD, _CARD_HEIGHT, _ROW, _HEAD = 1180, 138, 66, 88, 30
_PITCH = (_WIDTH - _CARD - 4) / (len(COLUMNS) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A stage and the top left corner of its card."""

    stage: StageView
    column: int
    x: float
    y: float


def draw_flow(view: RunView) -> Markup:
    """The whole chain as one SVG; each card links to its artifact's entry in the lineage."""
    cards, height = _layout(view.stages)
    longest = max((build_seconds(stage) or 0.0 for stage in view.stages), default=0.0)
    parts = [
        Markup('<svg class="flow" viewBox="0 0 {} {:.0f}" role="img" aria-label="The chain of stages">').format(
            _WIDTH, height
        )
    ]
    for column in sorted({card.column for card in cards.values()}):
        parts.append(
            Markup('<text class="column" x="{:.1f}" y="13">{}</text>').format(_x(column) + _CARD / 2, COLUMNS[column])
        )
    for source, target, built in edges(view):
        parts.append(
            Markup('<path class="edge{}" d="{}"/>').format(
                "" if built else " expected", _edge(cards[source], cards[target])
            )
        )
    parts += [_draw_card(card, longest) for card in cards.values()]
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def edges(view: RunView) -> list[tuple[str, str, bool]]:
    """(from, to, recorded) by stage name: the recorded inputs, reduced, and for unbuilt stages the expected ones."""
    produced: dict[str, str] = {}
    for stage in view.stages:
        if stage.artifact is not None:
            produced[stage.artifact.fingerprint] = produced[stage.artifact.content] = stage.name
    names = [stage.name for stage in view.stages]
    parents: dict[str, list[str]] = {}
    for stage in view.stages:
        if stage.artifact is not None:
            found = {produced[value] for value in stage.artifact.record["inputs"].values() if value in produced}
            parents[stage.name] = [name for name in names if name in found]
        else:
            parents[stage.name] = expected_parents(stage.name, names)
    built = {stage.name for stage in view.stages if stage.artifact is not None}
    result = []
    for name, sources in parents.items():
        implied = {ancestor for source in sources for ancestor in _ancestors(source, parents)}
        result += [(source, name, name in built) for source in sources if source not in implied]
    return result


def _ancestors(name: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(parents.get(name, ()))
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting += parents.get(parent, ())
    return found


def _layout(stages: Sequence[StageView]) -> tuple[dict[str, Card], float]:
    sources = [stage.name for stage in stages if stage.name.startswith(ACQUIRE)]
    stack = [stage.name for stage in stages if stage.name in STACK]
    places = {
        name: (column, index - (len(names) - 1) / 2)
        for column, names in ((0, sources), (PLACES["curate"][0], stack))
        for index, name in enumerate(names)
    }
    for stage in stages:
        if stage.name not in places:
            column, row, _ = PLACES.get(stage.name, (len(COLUMNS) - 1, 1.0, ()))
            while (column, row) in places.values():
                row += 1
            places[stage.name] = (column, row)
    rows = [row for _, row in places.values()] or [0.0]
    top = min(rows)
    cards = {}
    for stage in stages:
        column, row = places[stage.name]
        cards[stage.name] = Card(stage=stage, column=column, x=_x(column), y=_HEAD + (row - top) * _ROW)
    return cards, _HEAD + (max(rows) - top) * _ROW + _CARD_HEIGHT + 4


def _x(column: int) -> float:
    return 2 + column * _PITCH


def _edge(source: Card, target: Card) -> str:
    if source.column == target.column:  # straight up or down
        x = source.x + _CARD / 2
        down = target.y > source.y
        start, end = source.y + (_CARD_HEIGHT if down else 0), target.y + (0 if down else _CARD_HEIGHT)
        tip = -5 if down else 5
        return f"M{x:.1f} {start:.1f}V{end:.1f}m-4 {tip}l4 {-tip}l4 {tip}"
    start_y, end_y = source.y + _CARD_HEIGHT / 2, target.y + _CARD_HEIGHT / 2
    bend = target.x - (_PITCH - _CARD)  # the gap before the target; longer edges run straight up to it
    middle = (bend + target.x) / 2
    return (
        f"M{source.x + _CARD:.1f} {start_y:.1f}H{bend:.1f}"
        f"C{middle:.1f} {start_y:.1f} {middle:.1f} {end_y:.1f} {target.x:.1f} {end_y:.1f}m-5 -4l5 4l-5 4"
    )


def stage_fact(stage: StageView) -> str:
    """The state of a stage in a few words: how long it took, or why there is no such figure."""
    seconds = build_seconds(stage)
    fact = stage.state if seconds is None else duration(seconds)
    if stage.reused:
        fact = f"reused ({fact})"
    elif stage.state in ("failed", "stopped") and seconds is not None:
        fact = f"{stage.state}, {fact}"
    return f"{fact} · {stage.attempts} tries" if stage.attempts > 1 else fact


def _draw_card(card: Card, longest: float) -> Markup:
    stage, x, y = card.stage, card.x, card.y
    short = stage.artifact.fingerprint[:12] if stage.artifact is not None else ""
    fact = stage_fact(stage)
    tip = f"{stage.name}: {stage.state}, {fact}" + (f"\n{stage.error}" if stage.error else "")
    body = Markup(
        '<g class="card {}{}"><title>{}</title><rect x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="7"/>'
        '<circle cx="{:.1f}" cy="{:.1f}" r="4"/><text class="name" x="{:.1f}" y="{:.1f}">{}</text>'
        '<text class="fact" x="{:.1f}" y="{:.1f}">{}</text><text class="id" x="{:.1f}" y="{:.1f}">{}</text>'
    ).format(
        *(state_class(stage.state), " reused" if stage.reused else "", tip, x, y, _CARD, _CARD_HEIGHT),
        *(x + 14, y + 18, x + 24, y + 22, _shorten(stage.name, 16)),
        *(x + 10, y + 39, fact, x + 10, y + 55, short),
    )
    seconds = build_seconds(stage)
    if seconds and longest:
        body += Markup('<path class="time" d="M{:.1f} {:.1f}h{:.1f}"/>').format(
            x + 8, y + _CARD_HEIGHT, max(1.0, (_CARD - 16) * seconds / longest)
        )
    body += Markup("</g>")
    return Markup('<a href="#artifact-{}">{}</a>').format(short, body) if short else body


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
