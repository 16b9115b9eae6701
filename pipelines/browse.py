"""Looking into documents that stages wrote: choosing rows, searching texts, summing up. Reads Parquet, in batches.

Files are worked through several at once (Arrow decodes and matches without holding the interpreter), and answers come
in the order of files and rows, so the same question has the same answer.
"""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.domains import registrable_domain
from pipelines.funnel import Tally

_BATCH = 1000
_THREADS = 4
_AHEAD = 8  # files on their way before the first of them is asked for

T = TypeVar("T")
Fetch = Callable[[], Path]
"""A file that need not be on this machine before it is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which rows are wanted: those where every column named here has that value. `domain` is of the URL."""

    id: str | None = None
    source: str | None = None
    language: str | None = None
    url: str | None = None
    step: str | None = None
    reason: str | None = None
    domain: str | None = None

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of `batch` that are wanted. A batch without one of the columns has none."""
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            column = "url" if name == "domain" else name
            if column not in batch.schema.names:
                return batch.slice(0, 0)
            if name == "domain":
                wanted = pa.array([registrable_domain(url) == value for url in batch.column("url").to_pylist()])
            else:
                wanted = pc.equal(batch.column(column), value)
            batch = batch.filter(wanted)
        return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A document that matched: its other columns, and the text around the first match."""

    row: dict[str, Any]
    before: str
    match: str
    after: str


def rows(files: Sequence[Fetch], selection: Selection) -> Iterator[dict[str, Any]]:
    """The wanted rows of all files, in order."""
    for fetch in files:
        for batch in _batches(fetch()):
            yield from selection.of(batch).to_pylist()


def search(
    files: Sequence[Fetch],
    query: str,
    selection: Selection,
    *,
    regex: bool,
    ignore_case: bool,
    context: int,
    most: int,
    on_file: Callable[[], None],
) -> Iterator[Hit]:
    """Up to `most` documents whose text has `query`, with `context` characters on both sides of the first match.

    With an empty query all that are wanted match. `on_file` is called once for each file done with.

    Raises:
        ValueError: not a regular expression (RE2's syntax and Python's common ground).
    """
    try:
        pattern = re.compile(query if regex else re.escape(query), re.IGNORECASE if ignore_case else 0)
        if regex:
            pc.match_substring_regex(pa.array([""], pa.large_string()), query)
    except (re.error, pa.ArrowInvalid) as error:
        raise ValueError(f"{query!r} is not a regular expression: {error}") from None
    match = pc.match_substring_regex if regex else pc.match_substring

    def of_file(fetch: Fetch) -> list[Hit]:
        found: list[Hit] = []
        for batch in _batches(fetch()):
            chosen = selection.of(batch)
            if query and chosen.num_rows:
                chosen = chosen.filter(match(chosen.column("text"), query, ignore_case=ignore_case))
            found += [_hit(row, pattern, context) for row in chosen.slice(0, most - len(found)).to_pylist()]
            if len(found) >= most:
                break
        return found

    hits = itertools.chain.from_iterable(_each(of_file, files, on_file))
    return itertools.islice(hits, most)


def summarise(files: Sequence[Fetch], selection: Selection, on_file: Callable[[], None]) -> dict[str, Any]:
    """Documents and bytes: in all, by source, language and domain, and how long documents are.

    Returns documents, bytes, sources, languages, domains (of each: documents, bytes) and lengths: documents by the
    first power of two above their bytes.
    """
    tallies: dict[str, Tally] = {"sources": Tally(), "languages": Tally(), "domains": Tally()}
    lengths: collections.Counter[int] = collections.Counter()
    for part in _each(lambda fetch: _counts(fetch(), selection), files, on_file):
        for name, tally in tallies.items():
            tally.update(part[name])
        lengths.update(part["lengths"])
    by_source = tallies["sources"].rows()
    return {
        "documents": sum(row["documents"] for row in by_source.values()),
        "bytes": sum(row["bytes"] for row in by_source.values()),
        **{name: tally.rows() for name, tally in tallies.items()},
        "lengths": {str(2**power): count for power, count in sorted(lengths.items())},
    }


def _counts(path: Path, selection: Selection) -> dict[str, Any]:
    tallies: dict[str, Tally] = {"sources": Tally(), "languages": Tally(), "domains": Tally()}
    lengths: collections.Counter[int] = collections.Counter()
    for batch in _batches(path):
        chosen = selection.of(batch)
        sizes = pc.binary_length(chosen.column("text")).to_numpy(zero_copy_only=False)
        lengths.update(length_powers(sizes))
        keys = {name: chosen.column(name).to_pylist() for name in ("source", "language", "url")}
        for size, source, language, url in zip(sizes.tolist(), *keys.values(), strict=True):
            tallies["sources"].add(source, size)
            tallies["languages"].add(language, size)
            tallies["domains"].add(registrable_domain(url), size)
    return {**{name: tally.rows() for name, tally in tallies.items()}, "lengths": lengths}


def length_powers(sizes: Any) -> list[int]:
    """For each size the exponent of the first power of two above it."""
    powers: list[int] = np.frexp(np.asarray(sizes, dtype=np.float64))[1].tolist()
    return powers


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_BATCH, use_threads=False)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: is not a readable Parquet file ({error})") from None


def _hit(row: dict[str, Any], pattern: re.Pattern[str], context: int) -> Hit:
    text = row.pop("text")
    found = pattern.search(text)
    start, end = found.span() if found else (0, 0)
    return Hit(
        row=row, before=text[max(0, start - context) : start], match=text[start:end], after=text[end : end + context]
    )


def _each(function: Callable[[Fetch], T], files: Sequence[Fetch], on_file: Callable[[], None]) -> Iterator[T]:
    """`function` of every file, a few at once, in their order; no more are begun than are asked for soon."""
    waiting: collections.deque[Future[T]] = collections.deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for fetch in files:
                waiting.append(threads.submit(function, fetch))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result()
                    on_file()
            while waiting:
                yield waiting.popleft().result()
                on_file()
        finally:
            for future in waiting:
                future.cancel()
