"""Benchmark files: found, checked, and read as items of text, with errors that name file and item."""

from __future__ import annotations

import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from illada.artifacts import sha256_file
from illada.config import Benchmark, ConfigError, Decontaminate


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question or task of a benchmark. `name` is its file and its number in it, from 1: "test.jsonl:12"."""

    benchmark: str
    name: str
    texts: tuple[str, ...]


def decontaminate_identity(config: Decontaminate) -> dict[str, Any]:
    """The configuration, and the content of the files it names: a changed file is another stage.

    Raises:
        ConfigError: a path or glob that matches no file, an unknown kind of file.
    """
    files = [
        {"benchmark": benchmark.name, "name": path.name, "sha256": sha256_file(path)}
        for benchmark in config.benchmarks
        for path in benchmark_files(benchmark)
    ]
    return {**config.identity(), "files": files}


def benchmark_files(benchmark: Benchmark) -> list[Path]:
    """The files of a benchmark, in order. Raises ConfigError for a path or glob that matches none."""
    files: dict[Path, None] = {}
    for pattern in benchmark.paths:
        found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        found = [path for path in found if path.is_file()]
        if not found:
            raise ConfigError(f"benchmark {benchmark.name!r}: {pattern} matches no file")
        for path in found:
            if _kind(path) not in (".jsonl", ".json", ".parquet"):
                raise ConfigError(
                    f"benchmark {benchmark.name!r}: {path} is not .jsonl, .json (both also .gz or .zst) or .parquet"
                )
        files.update(dict.fromkeys(found))
    return list(files)


def read_items(benchmark: Benchmark) -> Iterator[Item]:
    """All items. Raises ValueError for a file that cannot be read, an item that lacks a column or has no text in it."""
    for path in benchmark_files(benchmark):
        try:
            for number, row in enumerate(_rows(path, benchmark.columns), start=1):
                name = f"{path.name}:{number}"
                yield Item(benchmark=benchmark.name, name=name, texts=tuple(_texts(row, benchmark.columns, name)))
        except (OSError, ValueError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise ValueError(f"benchmark {benchmark.name!r}: {path}: {error}") from None


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


def _texts(row: Any, columns: Sequence[str], name: str) -> Iterator[str]:
    if not isinstance(row, dict):
        raise ValueError(f"item {name} is not an object")
    for column in columns:
        if column not in row:
            raise ValueError(f"item {name} has no {column!r}; it has {', '.join(map(str, row))}")
        for text in row[column] if isinstance(row[column], list) else [row[column]]:
            if not isinstance(text, str):
                raise ValueError(f"item {name}: {column!r} holds a {type(text).__name__}, not text")
            yield text
