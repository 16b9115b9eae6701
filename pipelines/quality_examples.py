"""Labelled examples for the quality classifier: from files and from curated documents, sampled by hash."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from illada.artifacts import Artifact, Progress, sha256_file
from illada.config import ConfigError, Examples, Quality
from pipelines.classifier import NEGATIVE, POSITIVE, as_line
from pipelines.documents import document_files, read_documents
from pipelines.sample import HashSample
from pipelines.tables import read_rows, table_files

MINIMUM = 100
"""Examples that each label needs at least."""


def check_quality(config: Quality, sources: Collection[str]) -> None:
    """Raise ConfigError for missing or unreadable files, unknown sources, and too few examples where that can be known.

    Files are read until there are enough examples in them.
    """
    for label, sets in _by_label(config).items():
        for examples in sets:
            if examples.from_source is not None and examples.from_source not in sources:
                raise ConfigError(
                    f"data.quality.{label}: from_source {examples.from_source!r} is none of the sources "
                    f"{', '.join(sources)}"
                )
        files = [examples for examples in sets if examples.paths]
        try:
            found = len(list(itertools.islice(itertools.chain(*map(_texts, files)), MINIMUM)))
        except ValueError as error:
            raise ConfigError(f"data.quality.{label}: {error}") from None
        if len(files) == len(sets) and found < MINIMUM:
            raise ConfigError(f"data.quality.{label}: {found} examples in its files, at least {MINIMUM} are needed")


def quality_identity(config: Quality) -> dict[str, Any]:
    """What the model depends on besides curated documents: configuration, and content of the files it names."""
    files = [
        {"label": label, "name": path.name, "sha256": sha256_file(path)}
        for label, sets in _by_label(config).items()
        for examples in sets
        for path in table_files("data.quality", examples.paths)
    ]
    return {**config.training(), "files": files}


def read_examples(config: Quality, curated: Artifact, progress: Progress) -> dict[str, list[str]]:
    """Distinct lines by label, each label's in the order of their hashes; see `as_line`.

    Memory: the samples. Raises ValueError for a file that cannot be read.
    """
    labels = _by_label(config)
    samples = {
        (label, number): HashSample[str](examples.documents, "quality")
        for label, sets in labels.items()
        for number, examples in enumerate(sets)
    }
    by_source: dict[str, list[HashSample[str]]] = {}
    for (label, number), sample in samples.items():
        examples = labels[label][number]
        if examples.from_source is not None:
            by_source.setdefault(examples.from_source, []).append(sample)
            continue
        for text in _texts(examples):
            line = as_line(text)
            sample.add(line, line)
    if by_source:
        _sample_documents(curated, by_source, progress)
    result: dict[str, list[str]] = {}
    for label in labels:
        merged: HashSample[str] = HashSample(sum(len(s) for (of, _), s in samples.items() if of == label), "quality")
        for line in (line for (of, _), s in samples.items() if of == label for line in s.items()):
            merged.add(line, line)
        result[label] = merged.items()
    return result


def _by_label(config: Quality) -> Mapping[str, Sequence[Examples]]:
    return {POSITIVE: config.positive, NEGATIVE: config.negative}


def _texts(examples: Examples) -> Iterator[str]:
    """The texts in files that are not empty. Raises ValueError naming file and row."""
    for path in table_files("data.quality", examples.paths):
        for name, (text,) in read_rows(path, (examples.text_column,)):
            if not isinstance(text, str):
                raise ValueError(f"{path}: item {name}: {examples.text_column!r} holds no text")
            if text.strip():
                yield text


def _sample_documents(curated: Artifact, by_source: Mapping[str, list[HashSample[str]]], progress: Progress) -> None:
    files = document_files(curated)
    progress.start(sum(file.metadata().num_rows for file in files), "documents")
    for count, document in enumerate((document for file in files for document in read_documents(file.path())), start=1):
        for sample in by_source.get(document.source, ()):
            line = as_line(document.text)
            sample.add(line, line)
        if count % 256 == 0:
            progress.update(count)
