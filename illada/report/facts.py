"""What the page says, taken from the artifacts' records: headline, funnel, mix, evaluation, samples.

Every function takes what is there. A stage that has not been built, or a figure an older stage did not record, is None
or an empty sequence, never an error: a report of a run that stopped half way is when one wants a report most.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from illada.artifacts import Artifact
from illada.report.metrics import number
from illada.report.view import RunView

DOCUMENTS = ("curate", "quality", "deduplicate", "substrings", "decontaminate-documents")
"""Stages that pass documents on, in the order they run; a run may be without some of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """The Monte-Carlo bound of one evaluation, in nats, as the stage recorded it."""

    label: str
    figures: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FunnelStep:
    """One filter: what went in and came out, and why the rest did not."""

    stage: str
    step: str
    documents_in: float
    documents_out: float
    bytes_in: float | None
    bytes_out: float | None
    dropped: Sequence[tuple[str, float]]
    failed: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One row of a mix: a source or a language."""

    name: str
    documents: float | None
    bytes: float | None
    tokens: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Documents read and kept, and bytes kept, of one registrable domain."""

    name: str
    read: float
    documents: float
    bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePair:
    """The same prompt before and after fine-tuning; None where it was not generated."""

    prompt: str
    before: str | None
    after: str | None


def pick(artifact: Artifact | None, *keys: str) -> Any:
    """A statistic by its path of keys, or None when the artifact or any key is missing."""
    value: Any = artifact.record.get("statistics") if artifact is not None else None
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def figure(artifact: Artifact | None, *keys: str) -> float | None:
    """A numeric statistic by its path of keys, or None."""
    return number(pick(artifact, *keys))


def model_name(view: RunView) -> str:
    """The released model's name from the configuration, or the run id while that cannot be read."""
    name = configured(view, "release", "model_name")
    return str(name) if name else view.run_id


def configured(view: RunView, *keys: str) -> Any:
    """A value of the run's configuration by its path of keys, or None."""
    try:
        value: Any = yaml.safe_load(view.config_yaml)
    except yaml.YAMLError:
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def documents_kept(view: RunView) -> float | None:
    """Documents that survived curation and, once it has run, deduplication."""
    steps = funnel(view)
    return steps[-1].documents_out if steps else None


def train_tokens(view: RunView) -> float | None:
    """Tokens of the training split."""
    return figure(view.artifact("tokenize"), "train", "tokens")


def parameter_count(view: RunView) -> float | None:
    """Trainable parameters, as training counted them."""
    return figure(view.artifact("pretrain"), "parameters")


def held_out(view: RunView) -> list[HeldOut]:
    """The evaluations there are, before and then after fine-tuning."""
    names = ["nll_per_token", "se_per_token", "nll_per_byte", "se_per_byte", "bits_per_byte"]
    names += ["windows", "draws", "tokens", "bytes"]
    rows = []
    for label, stage in (("before SFT", "evaluate-base"), ("after SFT", "evaluate-sft")):
        artifact = view.artifact(stage)
        if pick(artifact, "held_out") is not None:
            rows.append(HeldOut(label=label, figures={name: figure(artifact, "held_out", name) for name in names}))
    return rows


def funnel(view: RunView) -> list[FunnelStep]:
    """The steps of all stages that pass documents on, in the order they ran."""
    return [
        FunnelStep(
            stage=stage,
            step=str(row.get("step", "")),
            documents_in=number(row.get("documents_in")) or 0.0,
            documents_out=number(row.get("documents_out")) or 0.0,
            bytes_in=number(row.get("bytes_in")),
            bytes_out=number(row.get("bytes_out")),
            dropped=_by_count(row.get("dropped")),
            failed=_by_count(row.get("failed")),
        )
        for stage in DOCUMENTS
        for row in _mappings(pick(view.artifact(stage), "funnel"))
    ]


def damaged(view: RunView) -> list[tuple[str, str, str]]:
    """(file, record, error) of every record that could not be read."""
    return [
        (str(row.get("file", "")), str(row.get("record", "")), str(row.get("error", "")))
        for stage in DOCUMENTS
        for row in _mappings(pick(view.artifact(stage), "damaged"))
    ]


def damaged_total(view: RunView) -> int:
    """How many records could not be read: the funnel counts them all, the list of them has an end."""
    counted = sum(int(count) for step in funnel(view) for reason, count in step.failed if reason == "damaged")
    return max(counted, len(damaged(view)))


def mix(view: RunView, kind: str) -> list[Share]:
    """Shares by `kind` ("sources" or "languages"), of tokens once there are tokens, else of bytes; largest first."""
    for stage in ("tokenize", *reversed(DOCUMENTS)):
        table = pick(view.artifact(stage), kind)
        if isinstance(table, Mapping) and table:
            rows = [
                Share(
                    name=str(name),
                    documents=number(row.get("documents")),
                    bytes=number(row.get("bytes")),
                    tokens=number(row.get("tokens")),
                )
                for name, row in table.items()
                if isinstance(row, Mapping)
            ]
            return sorted(rows, key=lambda row: (-(row.tokens or row.bytes or 0.0), row.name))
    return []


def domains(view: RunView, most: int) -> tuple[list[Domain], Domain | None]:
    """The domains of which curation read most documents, and all the others together."""
    table, rest = (pick(view.artifact("curate"), "domains", part) for part in ("domains", "others"))
    if not isinstance(table, Mapping) or not isinstance(rest, Mapping):
        return [], None
    rows = [_domain(str(name) or "(no URL)", row) for name, row in table.items() if isinstance(row, Mapping)]
    rows.sort(key=lambda row: (-row.read, row.name))
    others = [_domain("all others", rest), *rows[most:]]
    sums = [sum(getattr(row, name) for row in others) for name in ("read", "documents", "bytes")]
    return rows[:most], Domain(name="all others", read=sums[0], documents=sums[1], bytes=sums[2]) if sums[0] else None


def quarantined(view: RunView) -> list[tuple[str, str]]:
    """(file, cause) of input that was given up: no figure counts it."""
    return [
        (str(row.get("file", "")), str(row.get("cause", "")))
        for stage in DOCUMENTS
        for row in _mappings(pick(view.artifact(stage), "quarantined"))
    ]


def samples(view: RunView) -> list[SamplePair]:
    """Generated texts side by side, in the order of the prompts."""
    before, after = (
        {
            str(row.get("prompt", "")): str(row.get("text", ""))
            for row in _mappings(pick(view.artifact(stage), "samples"))
        }
        for stage in ("evaluate-base", "evaluate-sft")
    )
    return [
        SamplePair(prompt=prompt, before=before.get(prompt), after=after.get(prompt)) for prompt in {**before, **after}
    ]


def inventory(artifact: Artifact) -> tuple[Mapping[str, Any], str | None]:
    """The inventory of an acquired source, and what is wrong with it when it cannot be read."""
    try:
        content = json.loads(artifact.path("inventory.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, f"{artifact.stage}: its inventory cannot be read: {error}"
    return (
        (content, None) if isinstance(content, Mapping) else ({}, f"{artifact.stage}: its inventory is not a mapping")
    )


def _domain(name: str, row: Mapping[str, Any]) -> Domain:
    read, documents, size = (number(row.get(key)) or 0.0 for key in ("read", "documents", "bytes"))
    return Domain(name=name, read=read, documents=documents, bytes=size)


def _by_count(table: Any) -> list[tuple[str, float]]:
    rows = [(str(name), number(value) or 0.0) for name, value in table.items()] if isinstance(table, Mapping) else []
    return sorted((row for row in rows if row[1]), key=lambda row: (-row[1], row[0]))


def _mappings(rows: Any) -> Iterable[Mapping[str, Any]]:
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list | tuple) else []
