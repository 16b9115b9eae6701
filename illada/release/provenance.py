"""provenance.json: the chain of fingerprints from the released weights back to each source file.

A fingerprint is the hash of (stage, version, configuration, input fingerprints), all of which are written out, so a
reader can recompute every one of them and follow every input to the artifact it came from. Sources have no inputs: they
are referred to by the digest of their files, which are listed. Times, hosts and command lines are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illada.artifacts import Artifact, StageIdentity, fingerprint, write_json
from illada.release.checksums import ReleaseError, is_sha256

PROVENANCE = "provenance.json"
INVENTORY = "inventory.json"
_VERSION = 2


def write_provenance(
    folder: Path, release: StageIdentity, model: Artifact, gates: Artifact, chain: Sequence[Artifact]
) -> None:
    """Write the file; `chain` holds `model` and `gates` too.

    Raises:
        ReleaseError: an artifact of the chain has an input that is not in the chain.
    """
    value = {
        "provenance_version": _VERSION,
        "release": _identity(release.stage, release.version, release.config, release.inputs, release.fingerprint),
        "model": {"stage": model.stage, "fingerprint": model.fingerprint},
        "gates": gates.statistics["gates"],
        "artifacts": [_artifact(artifact, with_files=artifact in (model, gates)) for artifact in chain],
        "sources": [_source(artifact) for artifact in chain if not artifact.record["inputs"]],
    }
    _check(value)
    write_json(folder / PROVENANCE, value)


def check_provenance(folder: Path, checksums: Mapping[str, str]) -> dict[str, Any]:
    """The parsed file, after checking that the chain is complete and fits the weights and the gates' outcomes.

    Args:
        checksums: sha256 of the release's files, as checked.

    Raises:
        ReleaseError: a fingerprint that does not recompute, an input that leads nowhere, files unlike the model's.
    """
    path = folder / PROVENANCE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        _check(value)
        files = {
            file["name"]: (artifact["stage"], file["sha256"])
            for artifact in value["artifacts"]
            if artifact["fingerprint"] == value["model"]["fingerprint"] or artifact["stage"] == "gates"
            for file in artifact["files"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(
            f"{path}: {error if isinstance(error, ReleaseError) else f'unreadable ({error!r})'}"
        ) from None
    for name, (stage, sha256) in files.items():
        if checksums.get(name) != sha256:
            raise ReleaseError(f"{folder / name}: is not the file that {PROVENANCE} says {stage} wrote")
    return dict(value)


def read_inventory(source: Artifact) -> dict[str, Any]:
    """What an acquisition recorded of its files. Raises ReleaseError when it did not."""
    try:
        inventory: dict[str, Any] = json.loads(source.path(INVENTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"{source.stage}: its {INVENTORY} cannot be read ({error}); build the source again"
        ) from None
    return inventory


def _artifact(artifact: Artifact, with_files: bool) -> dict[str, Any]:
    record = artifact.record
    entry = _identity(artifact.stage, record["version"], record["config"], record["inputs"], artifact.fingerprint)
    code = record["provenance"]
    entry["code"] = {key: code[key] for key in ("code_sha256", "git_commit", "git_dirty", "python", "versions")}
    if lost := record["statistics"].get("quarantined"):
        entry["quarantined"] = lost
    if with_files or not record["inputs"]:
        entry["content"] = artifact.content
        entry["files"] = record["files"]
    return entry


def _identity(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str], digest: str
) -> dict[str, Any]:
    return {"stage": stage, "version": version, "config": config, "inputs": inputs, "fingerprint": digest}


def _source(artifact: Artifact) -> dict[str, Any]:
    inventory = read_inventory(artifact)
    return {
        "artifact": artifact.fingerprint,
        **{key: inventory[key] for key in ("source", "origin", "licence", "files")},
    }


def _check(value: Mapping[str, Any]) -> None:
    """Raises ReleaseError for the first thing that does not hold."""
    if value["provenance_version"] != _VERSION:
        raise ReleaseError(f"has version {value['provenance_version']}, this illada reads {_VERSION}")
    artifacts = value["artifacts"]
    known = {artifact["fingerprint"] for artifact in artifacts} | {
        artifact["content"] for artifact in artifacts if "content" in artifact
    }
    for entry in [*artifacts, value["release"]]:
        identity = StageIdentity(
            stage=entry["stage"], version=entry["version"], config=entry["config"], inputs=entry["inputs"]
        )
        if identity.fingerprint != entry["fingerprint"]:
            raise ReleaseError(f"the fingerprint of {entry['stage']} is not that of its configuration and inputs")
        for name, digest in entry["inputs"].items():
            if digest not in known:
                raise ReleaseError(f"input {name!r} of {entry['stage']}, {digest[:12]}, is not in the chain")
        if "files" in entry:
            content = fingerprint({file["name"]: [file["bytes"], file["sha256"]] for file in entry["files"]})
            if content != entry["content"]:
                raise ReleaseError(f"the content digest of {entry['stage']} is not that of its files")
    if value["model"]["fingerprint"] not in known:
        raise ReleaseError("the released model is not in the chain")
    _check_sources(value)


def _check_sources(value: Mapping[str, Any]) -> None:
    leaves = {artifact["fingerprint"]: artifact for artifact in value["artifacts"] if not artifact["inputs"]}
    if leaves.keys() != {source["artifact"] for source in value["sources"]}:
        stages = ", ".join(artifact["stage"] for artifact in leaves.values())
        raise ReleaseError(f"the sources listed are not the stages without inputs ({stages})")
    for source in value["sources"]:
        declared = leaves[source["artifact"]]["config"].get("licence", source["licence"])
        if declared != source["licence"]:
            raise ReleaseError(
                f"source {source['source']}: is listed as {source['licence']!r} but was acquired as {declared!r}"
            )
        for file in source["files"]:
            if not is_sha256(file["sha256"]):
                raise ReleaseError(f"source {source['source']}: {file['path']} has no sha256")
