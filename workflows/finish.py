"""The last stages, from a training checkpoint to something people use: export, evaluation with samples, release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import ModelConfig, Release, WorkflowConfig

EXPORT_VERSION = 1
EVALUATE_VERSION = 1
RELEASE_VERSION = 1


def export(
    trained: Artifact, tokenizer: Artifact, model: ModelConfig, attempt: Attempt, *, progress: Progress
) -> dict[str, Any]:
    """Write the trained weights as a Hugging Face folder."""
    from illada.release.export import export_model
    from illada.train.export import export_weights

    progress.start(2, "steps")
    weights = export_weights(trained.local("checkpoint"), model)
    progress.update(1)
    export_model(weights, model, tokenizer.local(), attempt.output)
    progress.update(2)
    return {"tensors": len(weights), "parameters": sum(tensor.numel() for tensor in weights.values())}


def evaluate(
    model: Artifact, tokens: Artifact, config: WorkflowConfig, attempt: Attempt, *, progress: Progress
) -> dict[str, Any]:
    """Held-out likelihood bound and samples of an exported model."""
    from illada.evaluate.nll import evaluate_nll
    from illada.sample.blocks import sample_prompts

    held_out = evaluate_nll(
        model.local(),
        tokens.local("held_out"),
        config.evaluate,
        config.pretrain.objective,
        config.pretrain.window,
        progress,
    )
    return {"held_out": held_out, "samples": sample_prompts(model.local(), config.generate, progress)}


def release(
    exported: Artifact,
    chain: Sequence[Artifact],
    evaluations: Mapping[str, Artifact],
    config: Release,
    attempt: Attempt,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """The release folder: model, tokenizer, card, provenance, probes, checksums."""
    from illada.release.build import build_release

    results = {name: artifact.statistics for name, artifact in evaluations.items()}
    return build_release(exported, chain, results, config, attempt, progress)
