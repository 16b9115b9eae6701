"""The user's own files: found, checked before anything starts, and listed where they are; nothing is copied."""

from __future__ import annotations

import functools
import glob
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from illada.artifacts import Progress
from illada.config import ConfigError, TextFiles, WarcFiles
from pipelines.inputs import checksum


def find_files(source: WarcFiles | TextFiles) -> list[Path]:
    """Resolved paths of the source's files, pattern by pattern, each once.

    Raises:
        ConfigError: a path or pattern that names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in source.paths:
        matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 (takes absolute ones)
        if not matches:
            what = "matches nothing" if glob.has_magic(pattern) else "does not exist"
            raise ConfigError(f"source {source.name!r}: {pattern} {what}; give a path or glob of {source.kind} files")
        found.update(dict.fromkeys(Path(match).resolve() for match in matches))
    return list(found)


def check_files(source: WarcFiles | TextFiles) -> None:
    """Raise ConfigError unless every file is there, can be read, and looks like what it is said to be."""
    for path in find_files(source):
        try:
            if isinstance(source, WarcFiles):
                _check_warc(path)
            else:
                _check_columns(source, path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(f"source {source.name!r}: {path}: {reason}") from None


def list_files(source: WarcFiles | TextFiles, progress: Progress) -> list[dict[str, Any]]:
    """The inventory's file rows: absolute path, kind, bytes and sha256."""
    rows: list[dict[str, Any]] = []
    paths = find_files(source)
    progress.start(len(paths), "files")
    for path in paths:
        progress.update(len(rows))
        state = path.stat()
        size, sha256 = checksum(path) if path.is_dir() else _checksum(path, state.st_mtime_ns, state.st_size)
        rows.append({"path": str(path), "kind": source.kind, "bytes": size, "sha256": sha256, "made_from": []})
    return rows


@functools.lru_cache(maxsize=100_000)
def _checksum(path: Path, mtime_ns: int, size: int) -> tuple[int, str]:
    """Remembered by the file's state, as a stage's identity and its build both ask."""
    return checksum(path)


def _check_warc(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(5)
    if head and head != b"WARC/" and not head.startswith(b"\x1f\x8b"):
        raise ValueError("is not a WARC file, plain or gzip")


def _check_columns(source: TextFiles, path: Path) -> None:
    available = {"parquet": _parquet_columns, "jsonl": _json_keys, "hf-dataset": _dataset_columns}[source.kind](path)
    for key in ("text_column", "id_column", "url_column"):
        column = getattr(source, key)
        if column is not None and available is not None and column not in available:
            raise ValueError(f"has no column {column!r} ({key}); it has {', '.join(sorted(available))}")


def _parquet_columns(path: Path) -> Iterable[str]:
    import pyarrow.parquet as pq

    return pq.read_schema(path).names


def _json_keys(path: Path) -> Iterable[str] | None:
    """Keys of the first object, None when there is none: damaged lines are counted when they are read."""
    from pipelines.readers import read_json_lines

    first = next((row for row in read_json_lines(path) if isinstance(row, dict)), None)
    if first is None and path.stat().st_size:
        raise ValueError("holds no JSON object, one a line")
    return first


def _dataset_columns(path: Path) -> Iterable[str]:
    if (path / "dataset_dict.json").exists():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        raise ValueError(f"is a dictionary of datasets; name one of its folders ({', '.join(splits)})")
    if not (path / "state.json").exists():
        raise ValueError("is not a folder that datasets.save_to_disk wrote")
    return json.loads((path / "dataset_info.json").read_text())["features"]
