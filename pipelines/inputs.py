"""What an acquired source consists of, and how its files are cut into units of work.

`inventory.json` of an acquisition lists files: of the artifact itself, or the user's own by absolute path. Archives and
JSON-lines files are one unit each; Parquet files and saved datasets are cut into ranges of rows; of small files that
are a document each, many make a unit. The cut depends on the files alone, so that the units, and with them the output,
are the same for any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from illada.artifacts import Artifact, fingerprint, sha256_file
from illada.artifacts.folder import is_url
from pipelines.pool import Unit
from pipelines.shared import open_part
from pipelines.trees import TREES, group_files

ROWS_BYTES = 64 * 2**20
"""About how much of a Parquet file one unit reads."""
DATASET_ROWS = 20_000


def read_inventory(artifact: Artifact) -> dict[str, Any]:
    """The parsed `inventory.json`, in which `file` refers to each file wherever it is; see `pipelines.shared`."""
    inventory: dict[str, Any] = json.loads(artifact.path("inventory.json").read_text(encoding="utf-8"))
    for file in inventory["files"]:
        mine = not file["path"].startswith("/") and not is_url(file["path"])
        url = f"{artifact.location}/{file['path']}" if mine else file["path"]
        file["file"] = {"url": url, "sha256": file["sha256"]}
    return inventory


def plan_units(inventories: Sequence[Mapping[str, Any]]) -> list[Unit]:
    """The units of all sources, in the order of sources and files."""
    units = []
    for index, inventory in enumerate(inventories):
        common = {key: inventory[key] for key in ("source", "origin")}
        common["columns"] = inventory.get("columns", {})
        files = inventory["files"]
        trees = bool(files) and files[0]["kind"] in TREES  # a source has files of one kind
        for number, part, weight, payload in group_files(files) if trees else _parts(files):
            name = f"{index:03d}-{number:06d}-{part:06d}"
            units.append(Unit(name=name, payload={**common, **payload}, weight=weight / 1e6))
    return units


def _parts(files: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, float, dict[str, Any]]]:
    """Number of a file, of its part, bytes, and the payload's own keys."""
    for number, file in enumerate(files):
        own = {"name": file["path"], **{key: file[key] for key in ("file", "kind", "bytes")}}
        ranges = _ranges(file)
        for part, (first, last) in enumerate(ranges):
            yield number, part, file["bytes"] / len(ranges), {**own, "first": first, "last": last}


def _ranges(file: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Row groups of a Parquet file or rows of a dataset, by units; (0, 0) stands for the whole of another file."""
    if file["kind"] == "parquet":
        import pyarrow.parquet as pq

        with open_part(file["file"]) as opened, pq.ParquetFile(opened) as parquet:
            sizes = [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
        return _cut(sizes, ROWS_BYTES)
    if file["kind"] == "hf-dataset":
        from datasets import load_from_disk

        rows = len(load_from_disk(file["file"]["url"]))
        return [(first, min(first + DATASET_ROWS, rows)) for first in range(0, rows, DATASET_ROWS)]
    return [(0, 0)]


def _cut(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    ranges, first, held = [], 0, 0
    for index, size in enumerate(sizes):
        held += size
        if held >= limit or index == len(sizes) - 1:
            ranges.append((first, index + 1))
            first, held = index + 1, 0
    return ranges


def checksum(path: Path) -> tuple[int, str]:
    """Bytes and sha256 of a file; of a folder, the sum over its files and the sha256 of their names and checksums."""
    if path.is_file():
        return path.stat().st_size, sha256_file(path)
    files = [(file.relative_to(path).as_posix(), file) for file in sorted(path.rglob("*")) if file.is_file()]
    content = {name: [file.stat().st_size, sha256_file(file)] for name, file in files}
    return sum(file.stat().st_size for _, file in files), fingerprint(content)
