"""Rows and lines of the user's own files, as documents."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from fuzz import INVISIBLE, SCRIPTS, script_line
from text_bench import prose, write_archive

from illada.artifacts import sha256_file
from illada.config import Curate, Privacy
from pipelines.curate import CurateWorker
from pipelines.inputs import checksum
from pipelines.languages import known_languages
from pipelines.pool import Unit
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


def test_blank_lines_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "a"}\r\n \t\r\n\n{"text": "b"}\n\nnull\n\n')
    documents, recorder = read(path, "jsonl")
    assert [document.text for document in documents] == ["a", "b"]
    assert [item["record"] for item in recorder.damaged] == ["line 7"]


def test_every_script_comes_back_from_every_unicode_encoding(tmp_path: Path) -> None:
    texts, files = [], []
    for number, (script, first) in enumerate(SCRIPTS.items()):
        draw = Random(number)
        text = "".join(character + draw.choice([*INVISIBLE, "", "", ""]) for character in script_line(draw, first))
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            path = tmp_path / f"{script} {encoding}"
            path.write_bytes(f"{script}: {text}\n".encode(encoding))
            texts.append(f"{script}: {text}\n")
            size, sha256 = checksum(path)
            files.append({"name": path.name, "url": str(path), "bytes": size, "sha256": sha256})
    documents, recorder = read(tmp_path, "text", files=files)
    assert not recorder.damaged
    assert [document.text for document in documents] == texts
    assert len({document.id for document in documents}) == len({document.metadata["url"] for document in documents})


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["é,", "\u05e9\u05dc\u05d5\u05dd ", "\u200b"])
def test_a_page_of_one_line_of_10_mb(tmp_path: Path, unit: str) -> None:
    html = f"<html><body><p>{' '.join(prose('en', 2))} {unit * (10**7 // len(unit.encode()))}</p></body></html>"
    path = write_archive(tmp_path / "a.warc.gz", {"https://example.org": html.encode()})
    file = {"url": str(path), "sha256": sha256_file(path)}
    payload = {"kind": "warc", "source": "w", "origin": "files", "columns": {}, "name": "a", "file": file}
    config = Curate(languages=known_languages(), language_threshold=0, url_filter=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = CurateWorker(config, Privacy(), (), {}).run(Unit(name="0", payload=payload, weight=1), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024
    assert found["funnel"][0]["documents_in"] == 1
    assert sum(sum({**row["dropped"], **row["failed"]}.values()) for row in found["funnel"]) + found["documents"] == 1
