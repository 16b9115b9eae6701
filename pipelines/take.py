"""Stage `acquire-<source>` of a refresh: the new files of a source become part of the corpus.

Local files are listed where they are, like a run's own. Those of a server or object store are copied into the artifact
by the actor pool, a file at a time, and checked: what was trained on can then be shown whatever the server does later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from illada.artifacts import Attempt, Progress, write_json
from illada.config import DataPlacement
from illada.config.refresh import GrowingSource
from pipelines.pool import Unit, run_units
from pipelines.sources.growing import Listed, fetch

TAKE_VERSION = 1


def taking_identity(source: GrowingSource, new: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the acquisition is a function of: how the files are read, their names, and their content."""
    files = [
        {"name": file["name"], "bytes": file["bytes"], "content": file["sha256"] or file["version"]} for file in new
    ]
    return {**source.taking(), "new": files}


def take(
    source: GrowingSource,
    new: Sequence[Mapping[str, Any]],
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
) -> dict[str, Any]:
    """Write `inventory.json` of the new files, and copies of those that are not local. Returns statistics as `acquire`.

    Raises:
        ValueError: a file is gone or no longer what was listed.
    """
    remote = [file for file in new if file["sha256"] is None]
    units = [
        Unit(
            name=f"{number:06d}",
            payload={key: file[key] for key in ("name", "url", "bytes", "version")},
            weight=file["bytes"] / 1e6,
        )
        for number, file in enumerate(remote)
    ]
    copies = {}
    if units:
        results = run_units(units, Fetcher, attempt.work / "units", placement, progress, "MB")
        for unit, result in zip(units, results, strict=True):
            name = f"files/{unit.name}-{PurePosixPath(unit.payload['name']).name}"
            result.adopt("file", attempt, name)
            copies[unit.payload["name"]] = (name, result.statistics["sha256"])
    rows = []
    for file in new:
        path, sha256 = copies.get(file["name"], (file["url"], file["sha256"]))
        origin = {"name": file["name"]}
        if file["sha256"] is None:
            origin |= {"url": file["url"], "version": file["version"]}
        row = {"path": path, "kind": source.files, "bytes": file["bytes"], "sha256": sha256, "made_from": [origin]}
        rows.append(row)
    inventory: dict[str, Any] = {
        "source": source.name,
        "origin": "files",
        "licence": source.licence,
        "files": rows,
    }
    if source.files != "warc":
        inventory["columns"] = {"text": source.text_column, "id": source.id_column, "url": source.url_column}
    write_json(attempt.output / "inventory.json", inventory)
    return {
        "origin": "files",
        "documents": 0,
        "bytes": sum(row["bytes"] for row in rows),
        "files": [{"name": row["path"], "bytes": row["bytes"], "sha256": row["sha256"]} for row in rows],
        "notes": [],
    }


class Fetcher:
    """Copies one file after another."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Write `file`; returns its sha256."""
        from illada.artifacts import sha256_file

        fetch(Listed(**unit.payload), output / "file")
        return {"sha256": sha256_file(output / "file")}
