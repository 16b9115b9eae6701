"""Stage `acquire-<source>` of a refresh: the new files of a source become part of the corpus.

Local files are listed where they are, like a run's own. Those of a server or object store are fetched by the actor
pool, small ones together, and checked. They stay in the artifact, so that what was trained on can be shown whatever the
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
from pipelines.trees import grouped

TAKE_VERSION = 2
_FETCHED_TOGETHER = 500


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
    units = _units(remote, source.copy_files)
    fetched: dict[str, tuple[str, str]] = {}
    if units:
        results = run_units(units, Fetcher, attempt.work / "units", placement, progress, "MB")
        for unit, result in zip(units, results, strict=True):
            sums = zip(unit.payload["files"], result.statistics["sha256"], strict=True)
            for number, (file, sha256) in enumerate(sums):
                path = file["url"]
                if source.copy_files:
                    path = f"files/{len(fetched):06d}-{PurePosixPath(file['name']).name}"
                    result.adopt(str(number), attempt, path)
                fetched[file["name"]] = (path, sha256)
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
    if columns := source.columns():
        inventory["columns"] = columns
    write_json(attempt.output / "inventory.json", inventory)
    return {
        "origin": "files",
        "documents": 0,
        "bytes": sum(row["bytes"] for row in rows),
        "files": [{"name": row["path"], "bytes": row["bytes"], "sha256": row["sha256"]} for row in rows],
        "notes": [],
    }


def _units(files: Sequence[Mapping[str, Any]], keep: bool) -> list[Unit]:
    units = []
    for first, last in grouped([file["bytes"] for file in files], _FETCHED_TOGETHER):
        some = [{key: file[key] for key in ("name", "url", "bytes", "version")} for file in files[first:last]]
        weight = sum(file["bytes"] for file in some) / 1e6
        units.append(Unit(name=f"{first:06d}", payload={"files": some, "keep": keep}, weight=weight))
    return units


class Fetcher:
    """Fetches the files of one unit after another."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Write files `0`, `1`, ..., or do not keep them; returns their sha256."""
        sums = []
        for number, file in enumerate(unit.payload["files"]):
            path = output / str(number)
            fetch(Listed(**file), path)
            sums.append(sha256_file(path))
            if not unit.payload["keep"]:
                path.unlink()
        return {"sha256": sums}
