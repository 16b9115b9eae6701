"""A run as one HTML file that needs nothing else: no script, no request, opens from disk, light and dark.

Everything on the page comes from the artifacts' records and files. Document text, titles and file names are other
people's: the template escapes all of it, the drawings go through `Markup.format`, and a content security policy forbids
the page to run or fetch anything should either ever slip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from illada import __version__
from illada.artifacts import write_text
from illada.report import facts, units
from illada.report.chain import build_seconds, state_class, with_pending
from illada.report.charts import interval_chart
from illada.report.flow import draw_flow, stage_fact
from illada.report.lineage import lineage, sources
from illada.report.rejected import rejections
from illada.report.sankey import draw_sankey
from illada.report.scores import distributions, thresholds
from illada.report.training import TrainingCharts, draw_training
from illada.report.view import RunView

_MOST_DAMAGED = 60
_MOST_CHARACTERS = 4000
_MOST_SAMPLES = 40
_MOST_DOMAINS = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One headline figure; `detail` stands below it."""

    label: str
    value: str
    detail: str


def write_report(view: RunView, path: Path) -> None:
    """Write the page of `view` to `path`, atomically; folders are made. Stages there are not are shown as pending."""
    write_text(path, render(view))


def render(view: RunView) -> str:
    """The page of `view` as HTML text."""
    view = with_pending(view)
    environment = Environment(
        loader=PackageLoader("illada.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (units.count, units.short_count, units.size, units.duration, units.percent, units.decimal):
        environment.filters[function.__name__] = function
    environment.filters["cut"] = _cut
    return environment.get_template("page.html.jinja").render(_content(view))


def _content(view: RunView) -> dict[str, Any]:
    source_entries, notes = sources(view)
    training = _training(view)
    for charts in training:
        notes += charts.notes
    damaged = facts.damaged(view)
    rejected, unread = rejections(view)
    notes += unread
    domains, other_domains = facts.domains(view, _MOST_DOMAINS)
    steps = facts.funnel(view)
    evaluations = facts.held_out(view)
    return {
        "style": Markup(resources.files("illada.report").joinpath("page.css").read_text(encoding="utf-8")),
        "version": __version__,
        "view": view,
        "model": facts.model_name(view),
        "description": str(facts.configured(view, "release", "description") or ""),
        "started": units.moment(view.created),
        "spent": sum(stage.seconds or 0.0 for stage in view.stages),
        "built": sum(build_seconds(stage) or 0.0 for stage in view.stages),
        "tiles": _tiles(view, evaluations),
        "notes": notes,
        "flow": draw_flow(view),
        "state_class": state_class,
        "stage_fact": stage_fact,
        "funnel": steps,
        "sankey": draw_sankey(steps),
        "rejected": rejected,
        "domains": domains,
        "other_domains": other_domains,
        "quarantined": facts.quarantined(view),
        "scores": distributions(view),
        "thresholds": thresholds(view),
        "damaged": damaged[:_MOST_DAMAGED],
        "damaged_total": facts.damaged_total(view),
        "mixes": [
            (title, rows, sum(row.tokens or 0 for row in rows), sum(row.bytes or 0 for row in rows))
            for title, rows in (
                ("By source", facts.mix(view, "sources")),
                ("By language", facts.mix(view, "languages")),
            )
            if rows
        ],
        "mixture": facts.pick(view.artifact("pretrain"), "mixture") or [],
        "pairs": _pairs(view),
        "training": training,
        "levels": range(10),
        "evaluations": evaluations,
        "intervals": _intervals(evaluations),
        "samples": facts.samples(view)[:_MOST_SAMPLES],
        "sources": source_entries,
        "lineage": lineage(view),
    }


def _tiles(view: RunView, evaluations: Sequence[facts.HeldOut]) -> list[Tile]:
    steps = facts.funnel(view)
    documents, read = facts.documents_kept(view), steps[0].documents_in if steps else None
    vocabulary = facts.figure(view.artifact("tokenizer"), "vocab_size")
    training_steps = facts.figure(view.artifact("pretrain"), "steps")
    held_out_tokens = facts.figure(view.artifact("tokenize"), "held_out", "tokens")
    tiles = [
        Tile(
            label="Documents kept",
            value=units.short_count(documents),
            detail=f"{units.percent(documents, read)} of {units.short_count(read)} read" if steps else "",
        ),
        Tile(
            label="Training tokens",
            value=units.short_count(facts.train_tokens(view)),
            detail=f"and {units.short_count(held_out_tokens)} held out" if held_out_tokens is not None else "",
        ),
        Tile(
            label="Parameters",
            value=units.short_count(facts.parameter_count(view)),
            detail=f"vocabulary {units.count(vocabulary)}" if vocabulary is not None else "",
        ),
        Tile(
            label="Trained on",
            value=units.short_count(facts.figure(view.artifact("pretrain"), "tokens")),
            detail=f"tokens in {units.count(training_steps)} steps" if training_steps is not None else "tokens",
        ),
    ]
    values = [units.decimal(row.figures["nll_per_byte"]) for row in evaluations]
    errors = [f"±{units.NARROW}{units.decimal(row.figures['se_per_byte'])} {row.label}" for row in evaluations]
    tiles.append(
        Tile(
            label="Held-out NLL, nats per byte",
            value=" → ".join(values) or units.UNKNOWN,
            detail=", ".join(errors),
        )
    )
    return tiles


def _training(view: RunView) -> list[TrainingCharts]:
    vocabulary = facts.configured(view, "model", "vocab_size")
    artifacts = [view.artifact("pretrain"), view.artifact("sft")]
    return [
        draw_training(artifact, vocabulary if isinstance(vocabulary, int) else None)
        for artifact in artifacts
        if artifact is not None
    ]


def _pairs(view: RunView) -> list[tuple[str, float]]:
    origins = facts.pick(view.artifact("pairs"), "origins")
    return sorted(origins.items(), key=lambda row: (-row[1], row[0])) if isinstance(origins, dict) else []


def _intervals(evaluations: Sequence[facts.HeldOut]) -> Markup | None:
    rows = [
        (row.label, mean, error, f"estimate{index}")
        for index, row in enumerate(evaluations)
        if (mean := row.figures["nll_per_byte"]) is not None and (error := row.figures["se_per_byte"]) is not None
    ]
    return interval_chart(rows, "nats per byte, with 95% interval") if rows else None


def _cut(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Long texts end in a mark that says so."""
    if len(text) <= most:
        return text
    return f"{text[:most]} … ({units.count(len(text) - most)} more characters)"
