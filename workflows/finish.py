"""Builds of the last stages, from a training checkpoint to something people use: export, evaluation, gates, release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import Evaluate, Generate, ModelConfig, Objective, Release

EXPORT_VERSION = 1
EVALUATE_VERSION = 1
GATES_VERSION = 1
RELEASE_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """How a model is measured: the bound of its pretraining objective on windows of that length, and its samples."""

    evaluate: Evaluate
    generate: Generate
    objective: Objective
    window: int

    def identity(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "evaluate": self.evaluate.identity(),
            "generate": self.generate.identity(),
            "objective": self.objective.identity(),
            "window": self.window,
        }


def export(
    trained: Artifact, tokenizer: Artifact, model: ModelConfig, attempt: Attempt, *, progress: Progress
) -> dict[str, Any]:
    """Write the trained weights as a Hugging Face folder."""
    from illada.release.export import export_model
    from illada.train.export import export_weights

    progress.start(2, "steps")
    weights = export_weights(trained.location / "checkpoint", model)
    progress.update(1)
    export_model(weights, model, tokenizer.local(), attempt.output)
    progress.update(2)
    return {"tensors": len(weights), "parameters": sum(tensor.numel() for tensor in weights.values())}


def evaluate(
    model: Artifact, tokens: Artifact, how: Measurement, attempt: Attempt, *, progress: Progress
) -> dict[str, Any]:
    """Held-out likelihood bound and samples of an exported model."""
    from illada.data.snapshots import shards_of
    from illada.evaluate.nll import evaluate_nll
    from illada.sample.blocks import sample_prompts

    shards = shards_of(tokens, "held_out")
    held_out = evaluate_nll(model.local(), shards, how.evaluate, how.objective, how.window, progress)
    return {"held_out": held_out, "samples": sample_prompts(model.local(), how.generate, progress)}


def check_gates(
    chain: Sequence[Artifact],
    corpora: Mapping[str, Artifact],
    evaluation: Artifact,
    report: Artifact | None,
    config: Release,
    attempt: Attempt,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """The outcomes of all gates, when they allow a release."""
    from illada.release.facts import check_gates

    return check_gates(chain, corpora, evaluation, report, config.gates, config.waivers, attempt, progress)


def release(
    exported: Artifact,
    chain: Sequence[Artifact],
    gates: Artifact,
    evaluations: Mapping[str, Artifact],
    config: Release,
    attempt: Attempt,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """The release folder: model, tokenizer, card, gates, provenance, probes, checksums."""
    from illada.release.build import build_release

    results = {name: artifact.statistics for name, artifact in evaluations.items()}
    return build_release(exported, chain, gates, results, config, attempt, progress)
