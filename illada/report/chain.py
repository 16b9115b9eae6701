"""Which stages a run is expected to have and where the drawing puts them: the only thing the report knows by name.

A run that stopped half way knows only the stages it reached; the others are shown as pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from illada.report.facts import configured
from illada.report.view import RunView, StageView

ACQUIRE = "acquire-"
COLUMNS = ("Sources", "Text", "Tokens", "Training", "Export", "Evaluation", "Release")
STACK = ("curate", "quality-model", "quality", "deduplicate", "substrings", "decontaminate-documents")
"""The stages of texts, drawn one above the other: each that there is follows the one before it."""
_SECTIONS = {"quality-model": "quality", "quality": "quality", "substrings": "substrings"}
_LAST_TEXT = "the last of the stack"
# in the order they run: stage -> (column, row relative to the middle, stages it follows)
PLACES: Mapping[str, tuple[int, float, tuple[str, ...]]] = {
    **dict.fromkeys(STACK, (1, 0.0, ())),
    "tokenizer": (2, 0, (_LAST_TEXT,)),
    "tokenize": (2, -1, ("tokenizer",)),
    "pretrain": (3, -1, ("tokenize",)),
    "export-base": (4, -1, ("pretrain",)),
    "evaluate-base": (5, -1, ("export-base",)),
    "pairs": (2, 1, ("tokenizer",)),
    "sft": (3, 1, ("pairs", "pretrain")),
    "export-sft": (4, 1, ("sft",)),
    "evaluate-sft": (5, 1, ("export-sft",)),
    "gates": (6, -0.5, ("evaluate-base", "evaluate-sft")),
    "release": (6, 0.5, ("gates",)),
    "checkpoint": (3, 0, ()),
    "decontaminate": (2, 2, (_LAST_TEXT, "pairs")),
}
_OPTIONAL = ("checkpoint", "decontaminate", "quality-model", "quality", "substrings", "decontaminate-documents")
_TEXTS = (*STACK, "tokenizer", "tokenize")
_STATES = {
    "done": ("done", "reused", "finished"),
    "running": ("running",),
    "failed": ("failed",),
    "stopped": ("stopped", "interrupted", "cancelled"),
}


def with_pending(view: RunView) -> RunView:
    """The run with every expected stage, those it has not reached as pending, in the order of the chain.

    Nothing is expected of a run of another workflow than the whole chain: it is shown as far as it has come.
    """
    if configured(view, "workflow") not in (None, "crawl-to-release"):
        return view
    sources = configured(view, "data", "sources")
    rows = sources if isinstance(sources, list) else []
    expected = [f"{ACQUIRE}{row['name']}" for row in rows if isinstance(row, Mapping) and "name" in row]
    reached = {stage.name: stage for stage in view.stages}
    elsewhere = _TEXTS if configured(view, "data", "corpus") else ()  # made by the refreshes of a corpus
    wanted = {name for name, section in _SECTIONS.items() if configured(view, "data", section)}
    absent = {*_OPTIONAL, *elsewhere} - (set() if elsewhere else wanted)
    chain = [name for name in PLACES if name in reached or name not in absent]
    order = [*expected, *(name for name in reached if name.startswith(ACQUIRE)), *chain, *reached]
    stages = [reached.get(name) or StageView(name=name, state="pending") for name in dict.fromkeys(order)]
    return replace(view, stages=stages)


def expected_parents(name: str, names: Sequence[str]) -> list[str]:
    """What a stage that has not been built will be built from, of the stages `names` of its run."""
    stack = [other for other in STACK if other in names]
    if name in stack:
        before = stack[: stack.index(name)]
        return before[-1:] or [other for other in names if other.startswith(ACQUIRE)]
    follows = PLACES[name][2] if name in PLACES else ()
    wanted = {stack[-1] if other == _LAST_TEXT and stack else other for other in follows}
    return [other for other in names if other in wanted]


def state_class(state: str) -> str:
    """The CSS class of a run's or stage's state; an unknown state looks like a pending one."""
    return next((name for name, states in _STATES.items() if state in states), "pending")


def build_seconds(stage: StageView) -> float | None:
    """How long the stage's artifact took to build, in this run or in the one that built it."""
    if stage.artifact is not None and stage.reused:
        return float(stage.artifact.record["seconds"])
    return stage.seconds
