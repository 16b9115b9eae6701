"""Assemble a release: the exported model, its card, its provenance, its probes, and the checksums of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress, write_text
from illada.config import Release
from illada.release.card import CARD, write_card
from illada.release.checksums import write_checksums
from illada.release.gates import GATES_FILE
from illada.release.probes import write_probes
from illada.release.provenance import write_provenance
from illada.release.verify import verify
from illada.sample.model import load


def build_release(
    export: Artifact,
    chain: Sequence[Artifact],
    gates: Artifact,
    evaluations: Mapping[str, Mapping[str, Any]],
    config: Release,
    attempt: Attempt,
    progress: Progress,
) -> dict[str, Any]:
    """Write the release folder to `attempt.output` and verify it as a user would.

    Args:
        export: the exported model that is released; its files become the release's by hard link.
        chain: every artifact the model was built from, `export` and `gates` included, in the order of the stages.
        gates: the outcomes that allow the release.
        evaluations: the statistics of each evaluation stage, by what was evaluated.

    Raises:
        ReleaseError: the chain is not complete, or the folder does not pass its own verification.
    """
    progress.start(5, "steps")
    for name in export.names:
        attempt.include(export.path(name), name)
    attempt.include(gates.path(GATES_FILE), GATES_FILE)
    progress.update(1, doing="probes")
    model, _ = load(attempt.output)
    write_probes(model, attempt.output)
    progress.update(2, doing="provenance")
    write_provenance(attempt.output, attempt.identity, export, gates, chain)
    write_text(attempt.output / CARD, write_card(export, chain, gates, evaluations, config))
    progress.update(3, doing="checksums")
    files = write_checksums(attempt.output)
    progress.update(4, doing="verification")
    checks = verify(attempt.output)
    progress.update(5)
    return {
        "model_name": config.model_name,
        "files": files + 1,
        "bytes": sum(path.stat().st_size for path in attempt.output.rglob("*") if path.is_file()),
        "checks": {check.name: check.detail for check in checks},
    }
