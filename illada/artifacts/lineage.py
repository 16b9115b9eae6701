"""What an artifact was built from, all the way back: inputs are followed through the store by their digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from illada.artifacts.artifact import Artifact
from illada.artifacts.store import Store


def lineage(store: Store, ends: Iterable[Artifact]) -> list[Artifact]:
    """`ends` and every artifact they were built from, each once and after its inputs.

    Raises:
        ArtifactError: an input is not in the store.
    """
    found: dict[str, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        if artifact.fingerprint in found:
            return
        for name, digest in sorted(artifact.record["inputs"].items()):
            visit(store.require(digest, name))
        found[artifact.fingerprint] = artifact

    for end in ends:
        visit(end)
    return list(found.values())


def by_name(artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    """Artifacts by their stage's name, to which those of a name that several have add a part of their fingerprint."""
    count = Counter(artifact.stage for artifact in artifacts)
    return {
        artifact.stage if count[artifact.stage] == 1 else f"{artifact.stage}-{artifact.fingerprint[:8]}": artifact
        for artifact in artifacts
    }
