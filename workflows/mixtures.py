"""What a mixture would take of each source and language, before anything starts, where the shards are there already."""

from __future__ import annotations

from typing import Any

from illada.artifacts import Store
from illada.config import WorkflowConfig
from illada.data.corpora import open_snapshot
from illada.data.mixture_loader import MixtureLoader


def planned_mixture(config: WorkflowConfig) -> list[dict[str, Any]] | None:
    """A row a group, as `MixtureLoader.table`; None without a mixture, or without a corpus: then sizes are not known.

    Raises:
        ArtifactError: the store has no such snapshot.
        ConfigError: it cannot give what the mixture asks for.
    """
    mixture, corpus, training = config.data.mixture, config.data.corpus, config.pretrain
    if mixture is None or corpus is None:
        return None
    shards = open_snapshot(Store(config.placement.store), corpus.name, corpus.snapshot).shards("train")
    return MixtureLoader.of(shards, mixture, training).table(0)
