"""A sample of what a stage rejected, with the reasons: `rejected/*.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import atomic_path

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "url", "source", "language", "step", "reason")]
    + [("text", pa.large_string())]
)


def write_rejected(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace `path` by a Parquet file of the rows that a `Recorder` sampled, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), temporary, compression="zstd")
