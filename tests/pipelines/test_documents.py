"""Documents and their Parquet form."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from text_bench import Bench

from illada.artifacts import Attempt, Folder, sha256_file
from pipelines.documents import (
    ROW_GROUP,
    SCHEMA,
    TextDocument,
    document_files,
    document_id,
    read_documents,
    row_groups,
    utf8,
    write_documents,
    write_tables,
)


def documents(count: int) -> list[TextDocument]:
    return [
        TextDocument(
            text=f"Text {i} – naïve 漢字 \U0001f600\0",
            id=document_id("s", str(i)),
            url=f"https://example.org/{i}",
            source="s",
            language="en",
            language_score=i / count,
            title="" if i % 2 else f"Title {i}",
        )
        for i in range(count)
    ]


def test_round_trip_in_order_and_by_row_groups(tmp_path: Path) -> None:
    written = documents(2 * ROW_GROUP + 7)
    assert write_documents(tmp_path / "a.parquet", written) == len(written)
    assert list(read_documents(tmp_path / "a.parquet")) == written
    assert list(read_documents(tmp_path / "a.parquet", first=1, count=1)) == written[ROW_GROUP : 2 * ROW_GROUP]
    assert pq.read_schema(tmp_path / "a.parquet") == SCHEMA


def test_bytes_depend_on_the_documents_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_documents(tmp_path / name, iter(documents(50)))
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")


def test_tables_are_written_as_the_documents_would_be(tmp_path: Path) -> None:
    whole = documents(2 * ROW_GROUP + 500)
    write_documents(tmp_path / "whole", whole)
    kept = np.random.default_rng(0).random(len(whole)) < 0.7
    with pq.ParquetFile(tmp_path / "whole") as file:
        groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
    masks = (kept[at : at + ROW_GROUP] for at in range(0, len(kept), ROW_GROUP))
    tables = [group.filter(pa.array(mask)) for group, mask in zip(groups, masks, strict=True)]
    assert write_tables(tmp_path / "tables", tables) == kept.sum()
    write_documents(tmp_path / "documents", itertools.compress(whole, kept))
    assert sha256_file(tmp_path / "tables") == sha256_file(tmp_path / "documents")
    assert write_tables(tmp_path / "none", []) == write_documents(tmp_path / "no-documents", []) == 0
    assert sha256_file(tmp_path / "none") == sha256_file(tmp_path / "no-documents")


def test_utf8_of_a_column() -> None:
    texts = ["naïve", "", "漢字", "b"]
    column = pa.chunked_array([texts[:1], texts[1:]], pa.large_string())
    for part in (column, column.slice(1, 2), column.slice(4), column.chunk(1).slice(1), column.slice(0, 0)):
        part = part if isinstance(part, pa.ChunkedArray) else pa.chunked_array([part])
        data, starts = utf8(part)
        assert [data[a:b].tobytes().decode() for a, b in itertools.pairwise(starts)] == part.to_pylist()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_documents(tmp_path / "a", documents(3))

    def broken() -> object:
        yield from documents(1)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        write_documents(tmp_path / "a", broken())  # type: ignore[arg-type]
    assert len(list(read_documents(tmp_path / "a"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_size_is_that_of_utf8() -> None:
    document = documents(1)[0]
    assert document.bytes == len(document.text.encode())


def test_ids_tell_the_parts_apart() -> None:
    ids = {
        document_id("s", "ab", "c"),
        document_id("s", "a", "bc"),
        document_id("t", "ab", "c"),
        document_id("s", "abc"),
    }
    assert len(ids) == 4
    assert document_id("s", "a") == document_id("s", b"a")
    assert all(len(identity) == 32 and int(identity, 16) >= 0 for identity in ids)


def test_files_of_an_artifact_in_order(bench: Bench) -> None:
    def build(attempt: Attempt) -> dict[str, object]:
        for name in ("documents/00001.parquet", "documents/00000.parquet", "rejected/00000.parquet"):
            write_documents(attempt.output / name, documents(1))
        return {}

    artifact = bench.run("stage", {}, build)
    assert [file.path().name for file in document_files(artifact)] == ["00000.parquet", "00001.parquet"]


def test_footers_are_read_once(bench: Bench, tmp_path: Path) -> None:
    def build(attempt: Attempt) -> dict[str, Any]:
        for number, count in enumerate((ROW_GROUP + 3, 0, 5)):
            write_documents(attempt.output / f"documents/{number:05d}.parquet", documents(count))
        return {}

    artifact = bench.run("some", {}, build)
    files, work = document_files(artifact), Folder.at(tmp_path / "work")
    expected = [[ROW_GROUP, 3], [], [5]]
    assert row_groups(files, work) == expected
    kept = (tmp_path / "work" / "row-groups.json").read_bytes()
    for damage in (kept.replace(b"1000", b"1001"), kept[:-9]):
        (tmp_path / "work" / "row-groups.json").write_bytes(damage)
        assert row_groups(files, work) == expected
    shutil.rmtree(artifact.location.path / "documents")
    assert row_groups(files, work) == expected
