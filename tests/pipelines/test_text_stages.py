"""The stages `curate` and `deduplicate` in the actor pool: the same files however they come about."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from text_bench import Bench, Interrupt, page, prose, write_archive

from illada.artifacts import Artifact, NoProgress, StageInterrupted
from illada.config import Curate, DataPlacement, Deduplicate, Privacy
from pipelines.curate import curate
from pipelines.deduplicate import deduplicate
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents

pytestmark = pytest.mark.usefixtures("cluster")

CONFIG = Curate(url_filter=False, languages=("en", "de"), rejected_sample=1.0)
ONE, TWO = (DataPlacement(workers=count, cpus_per_worker=1) for count in (1, 2))


class InterruptIn(Interrupt):
    """Asks to stop once something is done in a phase."""

    def __init__(self, phase: int) -> None:
        self.phase = phase

    def start(self, total: float | None, unit: str) -> None:
        self.phase -= 1

    def update(self, done: float, **figures: float | str) -> None:
        if self.phase == 0:
            super().update(done)


def checksums(artifact: Artifact) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in artifact.record["files"]}


def read(artifact: Artifact) -> list[TextDocument]:
    return [document for file in document_files(artifact) for document in read_documents(file.path())]


def web_page(number: int) -> bytes:
    language = "de" if number % 3 == 0 else "en"
    return page(prose(language, number, 3 if number % 7 == 0 else 12), f"Page {number}")


@pytest.fixture
def sources(bench: Bench, tmp_path: Path) -> dict[str, Artifact]:
    """Three archives (one damaged), code, and the user's own lines and table."""
    archives = []
    for part in range(3):
        pages = {f"https://example.org/{n}": web_page(n) for n in range(part * 10, part * 10 + 10)}
        pages[f"https://example.org/copy-{part}"] = web_page(1)
        archives.append(write_archive(tmp_path / f"{part}.warc.gz", pages))
    data = bytearray(archives[2].read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9] = b"\0" * 9
    archives[2].write_bytes(bytes(data) + b"\x1f\x8b\x08 truncated")
    code = [
        TextDocument(
            text=f"def function_{n}(x):\n    '''Do {n} by mail to someone{n}@example.net.'''\n    return x + {n}\n",
            id=document_id("code", str(n)), url=f"https://code.invalid/{n}", source="code", language="python",
            language_score=1.0, title=f"module_{n}",
        )
        for n in range(4)
    ]  # fmt: skip
    write_documents(tmp_path / "code.parquet", code)
    rows = [json.dumps({"body": "\n".join(prose("en", 100 + n)), "key": n, "link": None}) for n in range(3)]
    rows.append(json.dumps({"body": "Too short: me@example.net", "key": 3, "link": None}))
    lines = [*rows, "not json", '"a string"', json.dumps({"body": " "}), json.dumps({"body": 7}), ""]
    with gzip.open(tmp_path / "own.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    table = pa.table({"text": ["\n".join(prose("de", 200 + n)) for n in range(6)]})
    pq.write_table(table, tmp_path / "own.parquet", row_group_size=2)
    columns = {"text": "body", "id": "key", "url": "link", "date": None}
    return {
        "web": bench.source("web", [(path, "warc") for path in archives]),
        "code": bench.source("code", [(tmp_path / "code.parquet", "parquet")], origin="environment"),
        "lines": bench.source("lines", [(tmp_path / "own.jsonl.gz", "jsonl")], columns=columns),
        "table": bench.source(
            "table",
            [(tmp_path / "own.parquet", "parquet")],
            columns={"text": "text", "id": None, "url": None, "date": None},
        ),
    }


def run_curate(bench: Bench, sources: dict[str, Artifact], placement: DataPlacement, run: int = 0) -> Artifact:
    return bench.run(
        "curate",
        {"run": run},
        lambda attempt: curate(CONFIG, sources, attempt, placement, NoProgress(), privacy=Privacy()),
    )


def test_same_files_for_any_number_of_workers_and_interruptions(
    bench: Bench, sources: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.inputs.ROWS_BYTES", 1)  # a unit for each row group
    first = run_curate(bench, sources, ONE, run=1)
    second = run_curate(bench, sources, TWO, run=2)
    assert checksums(first) == checksums(second)
    assert first.statistics == second.statistics

    def interrupted(attempt: Any) -> dict[str, Any]:
        with pytest.raises(StageInterrupted):
            curate(CONFIG, sources, attempt, TWO, Interrupt(), privacy=Privacy())
        marks = list((Path(attempt.work.url) / "units").glob("*.json"))
        assert 0 < len(marks) < 8, "some units are done, some are not"
        return curate(CONFIG, sources, attempt, ONE, NoProgress(), privacy=Privacy())

    assert checksums(bench.run("curate", {"run": 3}, interrupted)) == checksums(first)

    def dedup(work: Callable[[Any], dict[str, Any]], run: int) -> Artifact:
        return bench.run("deduplicate", {"run": run}, work)

    config = Deduplicate()
    a = dedup(lambda attempt: deduplicate(config, first, attempt, ONE, NoProgress()), 1)
    b = dedup(lambda attempt: deduplicate(config, second, attempt, TWO, NoProgress()), 2)

    def stopped(attempt: Any) -> dict[str, Any]:
        for phase in (1, 2, 5, 12):  # signing, digests, links, writing
            with pytest.raises(StageInterrupted):
                deduplicate(config, first, attempt, TWO, InterruptIn(phase))
        return deduplicate(config, first, attempt, ONE, NoProgress())

    c = dedup(stopped, 3)
    assert checksums(a) == checksums(b) == checksums(c)
    assert a.statistics == b.statistics == c.statistics
    check_curated(first)
    check_deduplicated(first, a)


def check_curated(artifact: Artifact) -> None:
    documents = read(artifact)
    statistics = artifact.statistics
    funnel = {row["step"]: row for row in statistics["funnel"]}
    assert list(funnel) == [
        "read",
        "extract",
        "language",
        "gopher-repetition",
        "gopher-quality",
        "c4",
        "fineweb",
        "privacy",
    ]
    assert funnel["privacy"]["documents_out"] == len(documents)
    assert funnel["privacy"]["bytes_out"] == sum(document.bytes for document in documents)
    # 33 pages less the damaged, 4 of code, 8 lines that hold something, 6 rows
    assert funnel["read"]["documents_in"] == 33 + 1 + 4 + 8 + 6
    assert funnel["read"]["failed"] == {"damaged": 4}
    assert funnel["read"]["dropped"] == {"empty": 2}
    assert {item["record"] for item in statistics["damaged"]} >= {"line 5", "line 6"}
    assert sum("record" in item["record"] for item in statistics["damaged"]) == 2
    assert all(item["file"] and item["error"] for item in statistics["damaged"])
    assert set(statistics["languages"]) == {"en", "de", "python"}
    assert statistics["privacy"]["emails"] == {"documents": 4, "occurrences": 4}
    assert all("email@example.com" in document.text for document in documents if document.source == "code")
    assert statistics["sources"]["code"]["documents"] == 4
    assert statistics["sources"]["lines"]["documents"] == 3
    assert statistics["sources"]["table"]["documents"] == 6
    assert [document.source for document in documents] == sorted(
        (document.source for document in documents), key=["web", "code", "lines", "table"].index
    )
    titled = next(document for document in documents if document.url == "https://example.org/1")
    assert (titled.title, titled.language) == ("Page 1", "en")
    rejected = [row for name in artifact.names if name.startswith("rejected/") for row in rows(artifact.path(name))]
    dropped = sum(sum(row["dropped"].values()) for row in statistics["funnel"])
    assert len(rejected) == dropped > 0
    assert {row["reason"] for row in rejected} >= {"gopher_short_doc", "empty"}
    assert "Too short: email@example.com" in {row["text"] for row in rejected}, "people read these"


def rows(path: Path) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return result


def check_deduplicated(before: Artifact, after: Artifact) -> None:
    documents = read(after)
    original = {document.id: document for document in read(before)}
    order = list(original)
    positions = [order.index(document.id) for document in documents]
    assert positions == sorted(positions)
    copies = [document for document in original.values() if document.text == original[order[0]].text]
    assert len([d for d in original.values() if "copy" in d.url]) >= 2
    assert not [document for document in documents if "/copy-" in document.url], "the first of equal documents stays"
    assert copies
    funnel = {row["step"]: row for row in after.statistics["funnel"]}
    assert funnel["exact"]["documents_in"] == len(original)
    assert funnel["near"]["documents_out"] == len(documents)
    assert funnel["near"]["bytes_out"] == sum(document.bytes for document in documents)
    assert funnel["exact"]["dropped"]["duplicate"] >= 2


def test_nothing_left_is_an_error_that_says_why(bench: Bench, tmp_path: Path) -> None:
    pages = {f"https://example.org/{n}": page(prose("en", n, 3), "Short") for n in range(3)}
    source = bench.source("web", [(write_archive(tmp_path / "a.warc.gz", pages), "warc")])
    with pytest.raises(ValueError, match=r"no document is left.*3 by gopher-quality: gopher_short_doc.*web"):
        run_curate(bench, {"web": source}, ONE)
    empty = tmp_path / "empty.warc"
    empty.touch()
    with pytest.raises(ValueError, match=r"no document is left after curation \(none was read\)"):
        run_curate(bench, {"web": bench.source("empty", [(empty, "warc")])}, ONE)


def test_files_that_changed_since_they_were_listed_are_refused(bench: Bench, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.warc.gz", {"https://example.org": web_page(1)})
    source = bench.source("web", [(path, "warc")])
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"a\.warc\.gz: missing or changed since source 'web' was acquired"):
        run_curate(bench, {"web": source}, ONE)


def test_saved_datasets(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    from illada.config import TextFiles
    from pipelines.acquire import acquire

    monkeypatch.setattr("pipelines.inputs.DATASET_ROWS", 3)
    texts = ["\n".join(prose("en", 300 + n)) for n in range(8)]
    Dataset.from_dict({"text": texts, "id": [str(n) for n in range(8)]}).save_to_disk(str(tmp_path / "set"))
    source = TextFiles(kind="hf-dataset", name="own", paths=(str(tmp_path / "set"),), id_column="id")
    acquired = bench.run("acquire-own", {}, lambda attempt: acquire(source, attempt, NoProgress()))
    documents = read(run_curate(bench, {"own": acquired}, ONE))
    assert [document.text for document in documents] == texts
    assert [document.id for document in documents] == [document_id("own", str(n)) for n in range(8)]


def test_output_files_are_even(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.even_files._SMALL_FILE_BYTES", 4000)

    draw = random.Random(0)

    def curated(attempt: Any) -> dict[str, Any]:
        for part in range(3):
            write_documents(
                attempt.output / f"documents/{part:05d}.parquet",
                [
                    TextDocument(
                        text=" ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(40 + 10 * part)),
                        id=document_id("s", f"{part} {number}"), url="", source="s", language="en", language_score=1.0,
                    )
                    for number in range(20)
                ],
            )  # fmt: skip
        return {}

    before = bench.run("curate", {}, curated)
    after = bench.run("deduplicate", {}, lambda attempt: deduplicate(Deduplicate(), before, attempt, TWO, NoProgress()))
    assert [document.id for document in read(after)] == [document.id for document in read(before)]
    sizes = [sum(document.bytes for document in read_documents(file.path())) for file in document_files(after)]
    assert len(sizes) > 4
    assert max(sizes) < 1.4 * min(sizes)
