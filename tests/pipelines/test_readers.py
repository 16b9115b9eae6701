"""Rows and lines of the user's own files, as documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from pipelines.readers import READ, Reader
from pipelines.recorder import Recorder

COLUMNS = {"text": "text", "id": None, "url": None, "date": "when"}
MOMENT = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)


def read(path: Path, kind: str, **payload: Any) -> tuple[list[Document], Recorder]:
    """The documents of a file that is one unit, and what was counted; checks that nothing is unaccounted for."""
    recorder = Recorder([READ], path.name, 1.0)
    whole: Mapping[str, Any] = {"kind": kind, "source": "own", "columns": COLUMNS, "first": 0, "last": 1, **payload}
    documents = list(Reader(path, whole, recorder).run())
    recorder.funnel.rows()
    return documents, recorder


def dates(documents: list[Document]) -> list[str]:
    return [document.metadata["date"] for document in documents]


def test_dates_of_lines(tmp_path: Path) -> None:
    given = [
        "2024-05-01",
        "2024-05-01T12:30:00+02:00",
        "20240501",
        "May 1st",
        "2024",
        "",
        None,
        1714521600,
        ["2024-05-01"],
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "when": value}) + "\n" for value in given))
    assert dates(read(path, "jsonl")[0]) == [*given[:3], *[""] * 6]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([date(2024, 5, 1), None], pa.date32(), ["2024-05-01", ""]),
        ([MOMENT], pa.timestamp("us", "UTC"), ["2024-05-01T12:30:00+00:00"]),
        ([MOMENT.replace(tzinfo=None)], pa.timestamp("s"), ["2024-05-01T12:30:00"]),
        (
            [MOMENT.astimezone(timezone(timedelta(hours=2)))],
            pa.timestamp("ns", "Europe/Paris"),
            ["2024-05-01T14:30:00+02:00"],
        ),
        (["2024-05-01T12:30:00Z", "x"], pa.string(), ["2024-05-01T12:30:00Z", ""]),
        ([20240501], pa.int64(), [""]),
    ],
)
def test_dates_of_tables(tmp_path: Path, values: list[Any], kind: pa.DataType, expected: list[str]) -> None:
    pq.write_table(pa.table({"text": ["a"] * len(values), "when": pa.array(values, kind)}), tmp_path / "a.parquet")
    assert dates(read(tmp_path / "a.parquet", "parquet")[0]) == expected
