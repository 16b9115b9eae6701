"""The user's own tables: JSON lines, JSON (plain, .gz, .zst) or Parquet, found by path or glob and read as rows.

Unlike the sources of a corpus, where damage is counted, these are small and chosen: whatever is wrong in them is an
error that names file and row.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard

from illada.config import ConfigError


def table_files(what: str, patterns: Sequence[str]) -> list[Path]:
    """The files, in order. Raises ConfigError, which begins with `what`, for a path or glob that matches none."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        found = [path for path in found if path.is_file()]
        if not found:
            raise ConfigError(f"{what}: {pattern} matches no file")
        for path in found:
            if _kind(path) not in (".jsonl", ".json", ".parquet"):
                raise ConfigError(f"{what}: {path} is not .jsonl, .json (both also .gz or .zst) or .parquet")
        files.update(dict.fromkeys(found))
    return list(files)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """(name, values of `columns`) of each row; a name is the file and the row's number from 1: "test.jsonl:12".

    Raises:
        ValueError: a file that cannot be read, a row that is no object or lacks a column.
    """
    try:
        for number, row in enumerate(_rows(path, columns), start=1):
            name = f"{path.name}:{number}"
            if not isinstance(row, dict):
                raise ValueError(f"item {name} is not an object")
            for column in columns:
                if column not in row:
                    raise ValueError(f"item {name} has no {column!r}; it has {', '.join(map(str, row))}")
            yield name, [row[column] for column in columns]
    except (OSError, ValueError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path}: {error}") from None


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix


def _rows(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    if _kind(path) == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise ValueError(f"has no column {sorted(missing)}; it has {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(columns=list(columns)):
                yield from batch.to_pylist()
    elif _kind(path) == ".jsonl":
        with _open(path) as lines:
            yield from (json.loads(line) for line in lines if line.strip())
    else:
        with _open(path) as file:
            yield from _listed(json.load(file))


def _open(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
    return path.open(encoding="utf-8")


def _listed(value: Any) -> list[Any]:
    """A list of items, or the only such list of an object ({"examples": [...]})."""
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise ValueError("is neither a list of items nor an object with one list of them")
    return value
