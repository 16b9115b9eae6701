"""What tokenization hands to the shard writer: token ids of a document (or conversation) and what they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from illada.data.shards import document_batch

Counts = dict[str, dict[str, int]]
"""{group: {"documents", "tokens", "bytes"}}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """One row of a token shard; `bytes` is the UTF-8 size of its text."""

    tokens: NDArray[np.int64]
    id: str
    source: str
    language: str
    bytes: int


def rows_batch(rows: Sequence[TokenRow], dtype: DTypeLike) -> pa.RecordBatch:
    """Rows as the record batch of a shard whose ids are stored as `dtype`."""
    return document_batch(
        [row.tokens for row in rows],
        ids=[row.id for row in rows],
        sources=[row.source for row in rows],
        languages=[row.language for row in rows],
        sizes=[row.bytes for row in rows],
        dtype=dtype,
    )


def count_by(rows: Iterable[TokenRow], group: Callable[[TokenRow], str]) -> Counts:
    """Documents, tokens and bytes of each group of rows."""
    return add_counts({group(row): {"documents": 1, "tokens": len(row.tokens), "bytes": row.bytes}} for row in rows)


def add_counts(parts: Iterable[Counts]) -> Counts:
    """The sum of several counts, groups sorted by name."""
    counters: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.items():
            counters.setdefault(name, Counter()).update(counts)
    return {name: dict[str, Any](counters[name]) for name in sorted(counters)}
