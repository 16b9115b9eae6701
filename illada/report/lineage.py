"""Where everything came from: one entry per artifact, and the files of every source with their digests.

Long lists are cut, saying so: the records beside the artifacts hold them whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illada.artifacts import Artifact
from illada.report.facts import inventory
from illada.report.metrics import number
from illada.report.units import moment
from illada.report.view import RunView

MOST_FILES = 150
MOST_PARTS = 600  # of all files of a source together
_MOST_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What an artifact was built from; `anchor` is the entry of the artifact that has this fingerprint, if any."""

    name: str
    fingerprint: str
    stage: str | None
    anchor: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One artifact as its record tells it."""

    anchor: str
    stage: str
    fingerprint: str
    content: str
    version: int
    seconds: float | None
    bytes: float
    files: Sequence[Mapping[str, Any]]
    more_files: int
    inputs: Sequence[Input]
    started: str
    code: str
    commit: str
    python: str
    versions: str
    command: str
    config: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file of a source; `made_from` lines say what it was archived from."""

    path: str
    kind: str
    bytes: float | None
    sha256: str
    made_from: Sequence[str]
    more_parts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceEntry:
    """One acquired source with its licence and files."""

    name: str
    origin: str
    licence: str
    documents: float | None
    bytes: float | None
    files: Sequence[SourceFile]
    more_files: int
    notes: Sequence[str]


def lineage(view: RunView) -> list[Entry]:
    """Every artifact of the run, in the order of its stages."""
    artifacts = [stage.artifact for stage in view.stages if stage.artifact is not None]
    producers = {key: artifact for artifact in artifacts for key in (artifact.fingerprint, artifact.content)}
    return [_entry(artifact, producers) for artifact in artifacts]


def sources(view: RunView) -> tuple[list[SourceEntry], list[str]]:
    """The acquired sources, and notes on inventories that cannot be read."""
    entries, notes = [], []
    for stage in view.stages:
        if stage.artifact is None or not stage.name.startswith("acquire-"):
            continue
        content, note = inventory(stage.artifact)
        notes += [note] if note else []
        files = [row for row in content.get("files", ()) if isinstance(row, Mapping)]
        statistics = stage.artifact.statistics
        entries.append(
            SourceEntry(
                name=str(content.get("source", stage.name.removeprefix("acquire-"))),
                origin=str(content.get("origin", "unknown")),
                licence=str(content.get("licence") or "unknown"),
                documents=number(statistics.get("documents")) or None,  # the user's own files are not counted
                bytes=number(statistics.get("bytes")),
                files=_source_files(files[:MOST_FILES]),
                more_files=max(0, len(files) - MOST_FILES),
                notes=[str(note) for note in statistics.get("notes", ())],
            )
        )
    return entries, notes


def _entry(artifact: Artifact, producers: Mapping[str, Artifact]) -> Entry:
    record = artifact.record
    provenance: Mapping[str, Any] = record.get("provenance") or {}
    commit = str(provenance.get("git_commit") or "not a git checkout")
    if provenance.get("git_dirty"):
        commit += " (with uncommitted changes)"
    files = record["files"]
    return Entry(
        anchor=anchor(artifact),
        stage=artifact.stage,
        fingerprint=artifact.fingerprint,
        content=artifact.content,
        version=int(record["version"]),
        seconds=number(record.get("seconds")),
        bytes=sum(file["bytes"] for file in files),
        files=files[:MOST_FILES],
        more_files=max(0, len(files) - MOST_FILES),
        inputs=[_input(name, value, producers) for name, value in record["inputs"].items()],
        started=moment(number(record.get("started"))),
        code=str(provenance.get("code_sha256", "")),
        commit=commit,
        python=str(provenance.get("python", "")),
        versions=", ".join(f"{name} {version}" for name, version in (provenance.get("versions") or {}).items()),
        command=" ".join(str(word) for word in provenance.get("argv") or ()),
        config=_cut(json.dumps(record["config"], indent=2, ensure_ascii=False)),
    )


def _input(name: str, value: str, producers: Mapping[str, Artifact]) -> Input:
    producer = producers.get(value)
    return Input(
        name=name,
        fingerprint=value,
        stage=producer.stage if producer else None,
        anchor=anchor(producer) if producer else None,
    )


def anchor(artifact: Artifact) -> str:
    """The id of an artifact's entry on the page."""
    return f"artifact-{artifact.fingerprint[:12]}"


def _source_files(rows: Sequence[Mapping[str, Any]]) -> list[SourceFile]:
    left, files = MOST_PARTS, []
    for row in rows:
        parts = row.get("made_from") or ()
        shown = parts[:left]
        left -= len(shown)
        files.append(
            SourceFile(
                path=str(row.get("path", "")),
                kind=str(row.get("kind", "")),
                bytes=number(row.get("bytes")),
                sha256=str(row.get("sha256", "")),
                made_from=[_part(part) for part in shown],
                more_parts=len(parts) - len(shown),
            )
        )
    return files


def _part(part: Any) -> str:
    if isinstance(part, Mapping):
        return " · ".join(str(value) for value in part.values() if value not in (None, ""))
    return str(part)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n… the rest is in record.json"
