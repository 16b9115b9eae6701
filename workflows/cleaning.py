"""The stage that takes benchmark text out of what is left of the documents, in runs and in refreshes."""

from __future__ import annotations

from illada.artifacts import Artifact
from illada.config import DataPlacement, Decontaminate
from illada.durable.engine import StageRunner
from pipelines.benchmarks import removal_identity
from pipelines.decontaminate_documents import CLEAN, DECONTAMINATE_DOCUMENTS_VERSION, decontaminate_documents


def clean_documents(
    run: StageRunner, how: Decontaminate, documents: Artifact, place: DataPlacement, *, may_be_empty: bool = False
) -> Artifact:
    """The stage `decontaminate-documents`; with `may_be_empty` nothing has to be left."""
    return run.stage(
        CLEAN,
        DECONTAMINATE_DOCUMENTS_VERSION,
        removal_identity(how),
        {"documents": documents.fingerprint},
        lambda attempt, progress: decontaminate_documents(
            how, documents, attempt, place, progress, may_be_empty=may_be_empty
        ),
        place.identity(),
    )
