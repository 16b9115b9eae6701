"""The facts that the gates decide on, gathered from the artifacts of a model's chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from illada.artifacts import Artifact, ArtifactError, Attempt, Progress, write_json
from illada.config import Gates
from illada.release.gates import GATES_FILE, judge, require_settled, settle
from illada.release.provenance import read_inventory

_READERS = 8  # hashing lets other threads run


def check_gates(
    chain: Sequence[Artifact],
    corpora: Mapping[str, Artifact],
    evaluation: Artifact,
    report: Artifact | None,
    gates: Gates,
    waivers: Mapping[str, str],
    attempt: Attempt,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate every gate and write `gates.json`; returns {"gates": a row for each}.

    Args:
        chain: every artifact the model was built from, its evaluation and the report included.
        corpora: what the model was trained on, by name.
        evaluation: the released model's.
        report: of decontamination; None when there is none.

    Raises:
        GatesFailedError: a gate failed that is not waived.
    """
    facts = {
        "evaluation": dict(_figures(evaluation.statistics)),
        "decontamination": {
            "report": report.statistics if report else None,
            "trained_on": {name: corpus.fingerprint for name, corpus in corpora.items()},
        },
        "checksums": _verify_all(chain, progress),
        "licences": [
            {"source": inventory["source"], "licence": inventory["licence"]}
            for inventory in (read_inventory(artifact) for artifact in chain if not artifact.record["inputs"])
        ],
    }
    rows = settle(judge(gates, facts), waivers)
    require_settled(rows)
    write_json(attempt.output / GATES_FILE, {"gates": rows, "facts": facts})
    return {"gates": rows}


def _figures(statistics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested statistics by its dotted name."""
    for name, value in statistics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def _verify_all(chain: Sequence[Artifact], progress: Progress) -> dict[str, Any]:
    """Read every file of every artifact again; what is damaged is named without saying where the store is."""
    progress.start(len(chain), "artifacts")
    damaged = []
    with ThreadPoolExecutor(_READERS) as readers:
        for done, problem in enumerate(readers.map(_damage, chain), start=1):
            damaged += [problem] if problem else []
            progress.update(done)
    # no bytes: metrics hold times, and a resumed run's outcomes are those of an uninterrupted one
    return {"artifacts": len(chain), "files": sum(len(artifact.names) for artifact in chain), "damaged": damaged}


def _damage(artifact: Artifact) -> str | None:
    try:
        artifact.verify()
    except ArtifactError as error:
        place = f"{artifact.stage}/{artifact.fingerprint[:12]}"
        return f"{place}: {str(error).split(';')[0].removeprefix(f'{artifact.location}/')}"
    return None
