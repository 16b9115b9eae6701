"""Stage `acquire-<source>` of a refresh: the new files of a source become part of the corpus.

Local files are listed where they are, like a run's own. Those of a server or object store are fetched by the actor
pool, a file at a time, and checked. They stay in the artifact, so that what was trained on can be shown whatever the
server does later; or (`copy_files: false`) only their checksum does, and curation fetches them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from illada.artifacts import Attempt, Progress, sha256_file, write_json
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
    """Write `inventory.json` of the new files, and copies of remote ones if asked for. Returns statistics as `acquire`.

    Raises:
        ValueError: a file is gone or no longer what was listed.
    """
    remote = [file for file in new if file["sha256"] is None]
    units = [
        Unit(
            name=f"{number:06d}",
            payload={**{key: file[key] for key in ("name", "url", "bytes", "version")}, "keep": source.copy_files},
            weight=file["bytes"] / 1e6,
        )
        for number, file in enumerate(remote)
    ]
    fetched = {}
    if units:
        results = run_units(units, Fetcher, attempt.work / "units", placement, progress, "MB")
        for unit, result in zip(units, results, strict=True):
            path = unit.payload["url"]
            if source.copy_files:
                path = f"files/{unit.name}-{PurePosixPath(unit.payload['name']).name}"
                result.adopt("file", attempt, path)
            fetched[unit.payload["name"]] = (path, result.statistics["sha256"])
    rows = []
    for file in new:
        path, sha256 = fetched.get(file["name"], (file["url"], file["sha256"]))
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
    """Fetches one file after another."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Write `file`, or do not keep it; returns its sha256."""
        listed = {key: value for key, value in unit.payload.items() if key != "keep"}
        path = output / "file"
        fetch(Listed(**listed), path)
        sha256 = sha256_file(path)
        if not unit.payload["keep"]:
            path.unlink()
        return {"sha256": sha256}
