"""The stages of the quality classifier, as every graph has them: learn what is good, then keep the best."""

from __future__ import annotations

from typing import Any

from illada.artifacts import Artifact
from illada.config import DataPlacement, Quality
from illada.durable.engine import StageRunner
from pipelines.quality import QUALITY_VERSION, select_by_quality
from pipelines.quality_examples import quality_identity
from pipelines.quality_model import QUALITY_MODEL_VERSION, build_quality_model
from workflows.publish import remote

MODEL, SELECTION = "quality-model", "quality"


def quality_configs(quality: Quality | None) -> dict[str, dict[str, Any]]:
    """The configuration that the identity of each of these stages is made of; the graph adds the files of examples."""
    return {} if quality is None else {MODEL: quality.training(), SELECTION: quality.selection()}


def select_documents(
    run: StageRunner, quality: Quality, curated: Artifact, place: DataPlacement, first: tuple[Artifact, Artifact] | None
) -> dict[str, Artifact]:
    """The stages `quality-model` and `quality`, by name.

    Args:
        first: of a corpus that has a snapshot, the artifacts that these stages gave then: the model stays, and so do
            the thresholds, so that all documents of the corpus are judged alike.
    """
    if first is not None:
        model, before = first
        thresholds, known = before.statistics["thresholds"], {"thresholds": before.fingerprint}
    else:
        thresholds, known = None, {}
        model = run.stage(
            MODEL,
            QUALITY_MODEL_VERSION,
            quality_identity(quality),
            {"curated": curated.fingerprint},
            remote(build_quality_model, quality, curated),
        )
    selected = run.stage(
        SELECTION,
        QUALITY_VERSION,
        quality.selection(),
        {"curated": curated.fingerprint, "model": model.fingerprint, **known},
        lambda attempt, progress: select_by_quality(quality, curated, model, attempt, place, progress, thresholds),
        place.identity(),
    )
    return {MODEL: model, SELECTION: selected}
