"""Documents and their Parquet form."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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
    write_documents,
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
