"""Benchmark files: found, checked, and read as items of text, with errors that name file and item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.artifacts import sha256_file
from illada.config import Benchmark, Decontaminate
from pipelines.tables import read_rows, table_files


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question or task of a benchmark. `name` is its file and its number in it, from 1: "test.jsonl:12"."""

    benchmark: str
    name: str
    texts: tuple[str, ...]


def decontaminate_identity(config: Decontaminate) -> dict[str, Any]:
    """What is looked for, and the content of the files it names: a changed file is another stage.

    Raises:
        ConfigError: a path or glob that matches no file, an unknown kind of file.
    """
    files = [
        {"benchmark": benchmark.name, "name": path.name, "sha256": sha256_file(path)}
        for benchmark in config.benchmarks
        for path in benchmark_files(benchmark)
    ]
    return {**config.searching(), "files": files}


def removal_identity(config: Decontaminate) -> dict[str, Any]:
    """The whole configuration, and the content of the files it names; see `decontaminate_identity`."""
    return {**config.identity(), **decontaminate_identity(config)}


def benchmark_files(benchmark: Benchmark) -> list[Path]:
    """The files of a benchmark, in order. Raises ConfigError for a path or glob that matches none."""
    return table_files(f"benchmark {benchmark.name!r}", benchmark.paths)


def read_items(benchmark: Benchmark) -> Iterator[Item]:
    """All items. Raises ValueError for a file that cannot be read, an item that lacks a column or has no text in it."""
    for path in benchmark_files(benchmark):
        try:
            for name, values in read_rows(path, benchmark.columns):
                texts = _texts(values, benchmark.columns, f"{path}: item {name}")
                yield Item(benchmark=benchmark.name, name=name, texts=tuple(texts))
        except ValueError as error:
            raise ValueError(f"benchmark {benchmark.name!r}: {error}") from None


def _texts(values: Sequence[Any], columns: Sequence[str], where: str) -> Iterator[str]:
    for value, column in zip(values, columns, strict=True):
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise ValueError(f"{where}: {column!r} holds a {type(text).__name__}, not text")
            yield text
