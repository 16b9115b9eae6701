"""The model card: README.md, written from the records of the artifacts the model was built from.

Only figures that are a function of the inputs are printed, so the card of a run that was killed and resumed is the card
of an uninterrupted one; times, rates and restarts belong to the run's report.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from illada.artifacts import Artifact
from illada.config import ModelConfig, Release
from illada.model.arithmetic import parameters
from illada.release.gates import cell, gates_table, source_cells
from illada.release.provenance import read_inventory
from illada.release.published import BASE, INSTRUCT

CARD = "README.md"
_LABELS = {"base": "before SFT", "sft": "after SFT"}
_LANGUAGE = re.compile(r"[a-z]{2}")


def write_card(
    model: Artifact,
    chain: Sequence[Artifact],
    gates: Artifact,
    evaluations: Mapping[str, Mapping[str, Any]],
    config: Release,
) -> str:
    """The card of `model` as Markdown with a YAML head.

    Args:
        evaluations: the statistics of each evaluation stage, by what was evaluated ("base", "sft"), in order.
    """
    stages = {artifact.stage: artifact for artifact in chain}
    architecture = ModelConfig.model_validate(model.record["config"]["model"])
    causal = architecture.attention == "causal"
    environment = Environment(
        loader=PackageLoader("illada.release", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML; `cell` and `fenced` keep texts in their place
    )
    environment.filters |= {"cell": cell, "source_cells": source_cells, "fenced": fenced, "size": size, "share": share}
    return environment.get_template("card.md.jinja").render(
        front=front_matter(config, stages, causal=causal),
        release=config,
        model=architecture,
        causal=causal,
        count=parameters(architecture),
        dtype=json.loads(model.path("config.json").read_text(encoding="utf-8"))["dtype"],
        sources=_sources(chain),
        used=_used(chain, _tokens(stages)["sources"]),
        tokens=_tokens(stages),
        languages=_by_size(_tokens(stages)["languages"]),
        funnel=[_step(step) for step in _funnel(chain)],
        quarantined=[lost for artifact in chain for lost in artifact.statistics.get("quarantined", ())],
        quality=_quality(chain),
        privacy=_privacy(chain),
        mixture=stages["pretrain"].statistics.get("mixture") if "pretrain" in stages else None,
        tokenizer=stages["tokenizer"].statistics,
        pairs=stages["pairs"].statistics if "pairs" in stages else None,
        trainings=[_training(stages[name]) for name in ("pretrain", "sft", "checkpoint") if name in stages],
        evaluations=[{"label": _LABELS.get(name, name), **result} for name, result in evaluations.items()],
        gates=gates_table(gates.statistics["gates"]),
        report=stages["decontaminate"].statistics if "decontaminate" in stages else None,
        published=(BASE, INSTRUCT),
        chain=chain,
        weights=model,
    )


def front_matter(config: Release, stages: Mapping[str, Artifact], *, causal: bool) -> str:
    """The YAML head that model hubs read."""
    languages = [name for name, _ in _by_size(_tokens(stages)["languages"])]
    head = {
        "license": config.licence,
        "language": [name for name in languages if _LANGUAGE.fullmatch(name)],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llama"] if causal else ["diffusion-language-model", "masked-diffusion", "illada", "custom_code"],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def fenced(text: str) -> str:
    """Text as a code block, inside a fence longer than any the text has."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def size(count: float) -> str:
    """Bytes in decimal units: 1234567 -> 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def share(part: float, whole: float) -> str:
    """A percentage, or a dash of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _tokens(stages: Mapping[str, Artifact]) -> Mapping[str, Any]:
    """Counts of all tokens: of a run on a corpus those of its newest snapshot, the last in the chain."""
    return stages["snapshot" if "snapshot" in stages else "tokenize"].statistics


def _sources(chain: Sequence[Artifact]) -> list[dict[str, Any]]:
    """A row a source; a corpus has an acquisition of it for each refresh."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for artifact in chain:
        if artifact.record["inputs"]:
            continue
        inventory = read_inventory(artifact)
        names = {key: inventory[key] for key in ("source", "origin", "licence")}
        row = rows.setdefault(tuple(names.values()), {**names, "files": 0, "bytes": 0})
        row["files"] += len(inventory["files"])
        row["bytes"] += sum(file["bytes"] for file in inventory["files"])
    return list(rows.values())


def _used(
    chain: Sequence[Artifact], tokens: Mapping[str, Mapping[str, int]]
) -> list[tuple[str, str, Mapping[str, int]]]:
    """(name, its licences, documents and bytes and tokens) of every source, also those of which nothing was left."""
    licences: dict[str, dict[str, None]] = {name: {} for name in sorted(tokens)}
    for source in _sources(chain):
        licences.setdefault(source["source"], {})[source["licence"]] = None
    none = {"documents": 0, "bytes": 0, "tokens": 0}
    return [(name, ", ".join(found) or "-", tokens.get(name, none)) for name, found in licences.items()]


def _quality(chain: Sequence[Artifact]) -> dict[str, Any] | None:
    """How the classifier did on examples held out, and what was scored and kept by it; None without one."""
    models = [artifact for artifact in chain if artifact.stage == "quality-model"]
    if not models:
        return None
    found = [
        row
        for artifact in chain
        if artifact.stage == "quality"
        for row in artifact.statistics["scores"]["sources"].values()
    ]
    scored, kept = sum(sum(row["scores"]) for row in found), sum(row["kept"] for row in found)
    return {"held_out": models[0].statistics["held_out"], "scored": scored, "kept": kept}


def _funnel(chain: Sequence[Artifact]) -> list[dict[str, Any]]:
    """The steps of all stages that pass documents on, added up over the refreshes of a corpus."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name in ("curate", "quality", "deduplicate", "substrings", "decontaminate-documents"):
        for step in (step for artifact in chain if artifact.stage == name for step in artifact.statistics["funnel"]):
            row = rows.setdefault(
                (name, step["step"]), {"step": step["step"], "dropped": Counter(), "failed": Counter()}
            )
            for key in ("documents_in", "bytes_in", "documents_out", "bytes_out"):
                row[key] = row.get(key, 0) + step[key]
            for key in ("dropped", "failed"):
                row[key].update(step[key])
    return list(rows.values())


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    losses = {**step["dropped"], **step["failed"]}
    return {**step, "losses": sorted(losses.items(), key=lambda item: (-item[1], item[0]))}


def _privacy(chain: Sequence[Artifact]) -> list[dict[str, Any]]:
    """What was looked for of personal data and secrets, what was done with it and how much there was."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for curated in (artifact for artifact in chain if artifact.stage == "curate"):
        for kind, found in curated.statistics.get("privacy", {}).items():
            action = curated.record["config"]["privacy"][kind]
            row = rows.setdefault((kind, action), {"kind": kind, "action": action, **dict.fromkeys(found, 0)})
            for name, count in found.items():
                row[name] += count
    return list(rows.values())


def _training(artifact: Artifact) -> dict[str, Any]:
    config = artifact.record["config"]
    stage = f"{config['of']['stage']}, to step {config['step']:,}" if "of" in config else artifact.stage
    return {"stage": stage, "config": config["training"], "figures": artifact.statistics}


def _by_size(languages: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(languages.items(), key=lambda item: (-item[1]["bytes"], item[0]))
