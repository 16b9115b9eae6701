"""Stage `decontaminate`: planted benchmark text is found, near-misses are not, whatever the number of workers."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import Bench, Interrupt, prose

from illada.artifacts import Artifact, NoProgress, Progress, StageInterrupted
from illada.config import Benchmark, ConfigError, DataPlacement, Decontaminate
from pipelines.benchmarks import decontaminate_identity, read_items
from pipelines.decontaminate import REPORT, decontaminate
from pipelines.documents import TextDocument, document_id, write_documents
from pipelines.ngrams import NgramIndex, words

QUESTION = "If a baker sells seventeen loaves in the morning, and twice as many at noon; how many loaves are left over?"
SHARED = "Natalia sold clips to forty eight of her friends in April and then half as many in May alone."


@pytest.fixture
def config(tmp_path: Path) -> Decontaminate:
    """Two benchmarks in three forms; one item is too short to check, one is in both."""
    lines = [{"q": QUESTION, "a": "Nine."}, {"q": "What is two plus two?", "a": "4"}, {"q": SHARED, "a": "72"}]
    (tmp_path / "one.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in lines).encode()))
    rows = {"text": [SHARED, "x y z"], "choices": [[" ".join(f"c{n}" for n in range(15)), "no"], ["no", "yes"]]}
    pq.write_table(pa.table(rows), tmp_path / "two.parquet")
    return Decontaminate(
        benchmarks=(
            Benchmark(name="one", paths=(str(tmp_path / "one*.gz"),), columns=("q", "a")),
            Benchmark(name="two", paths=(str(tmp_path / "two.parquet"),), columns=("text", "choices")),
        )
    )


def corpus(bench: Bench, planted: dict[int, str], documents: int = 40) -> Artifact:
    """Files of ten documents of prose; `planted` texts stand inside some of them."""

    def build(attempt: Any) -> dict[str, Any]:
        for file in range(documents // 10):
            texts = []
            for number in range(file * 10, file * 10 + 10):
                first, *rest = prose("en", number)
                texts.append("\n".join([first, planted.get(number, ""), *rest]))
            write_documents(
                attempt.output / "documents" / f"{file:05d}.parquet",
                (
                    TextDocument(
                        text=text, id=document_id("s", text), url="", source="s", language="en", language_score=1.0
                    )
                    for text in texts
                ),
            )
        return {}

    return bench.run("deduplicate", {"planted": {str(k): v for k, v in planted.items()}}, build)


def pairs(bench: Bench) -> Artifact:
    def build(attempt: Any) -> dict[str, Any]:
        messages = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": SHARED}]]
        table = {"kind": ["file"], "id": ["conversation"], "messages": [json.dumps(row) for row in messages]}
        pq.write_table(pa.table(table), attempt.output / "pairs.parquet")
        return {}

    return bench.run("pairs", {}, build)


def report(
    bench: Bench,
    config: Decontaminate,
    corpora: dict[str, Artifact],
    workers: int = 1,
    progress: Progress | None = None,
) -> Artifact:
    place = DataPlacement(workers=workers)
    return bench.run(
        "decontaminate",
        decontaminate_identity(config),
        lambda attempt: decontaminate(config, corpora, attempt, place, progress or NoProgress()),
    )


@pytest.mark.usefixtures("cluster")
def test_planted_items_are_found_and_near_misses_are_not(bench: Bench, config: Decontaminate) -> None:
    typed = words(QUESTION)
    planted = {
        3: "IF A BAKER -- sells seventeen loaves (in the morning), and twice as many",  # 13 words of it
        17: " ".join(typed[:12]) + " nothing",  # 12 of them
        22: " ".join([*typed[:6], "indeed", *typed[6:]]),  # an inserted word cuts 20 words into 6 and 14
        25: " ".join([*typed[:7], "indeed", *typed[7:19]]),  # 7 and 12
        31: f"As we know: {SHARED}",
    }
    documents, tuned = corpus(bench, planted), pairs(bench)
    found = report(bench, config, {"documents": documents, "pairs": tuned}, workers=2)
    statistics = found.statistics
    assert statistics["benchmarks"] == {
        "one": {"items": 3, "checked": 2, "matched": 2, "documents": 4},
        "two": {"items": 2, "checked": 1, "matched": 1, "documents": 2},
    }
    assert (statistics["documents"], statistics["contaminated_documents"]) == (41, 4)
    assert statistics["covers"] == {"documents": documents.fingerprint, "pairs": tuned.fingerprint}

    value = json.loads(found.path(REPORT).read_text())
    assert value["matched_items"] == [
        {"benchmark": "one", "item": "one.jsonl.gz:1"},
        {"benchmark": "one", "item": "one.jsonl.gz:3"},
        {"benchmark": "two", "item": "two.parquet:1"},
    ]
    shown = {(row["benchmark"], row["item"], row["ngram"]) for row in value["examples"]}
    assert ("one", "one.jsonl.gz:1", " ".join(typed[:13])) in shown
    assert ("two", "two.parquet:1", " ".join(words(SHARED)[:13])) in shown
    assert "conversation" in {row["document"] for row in value["examples"]}


@pytest.mark.usefixtures("cluster")
def test_a_clean_corpus_and_workers_and_interruption(bench: Bench, config: Decontaminate, tmp_path: Path) -> None:
    clean = report(bench, config, {"documents": corpus(bench, {})})
    assert clean.statistics["contaminated_documents"] == 0
    assert {row["matched"] for row in clean.statistics["benchmarks"].values()} == {0}

    dirty = {"documents": corpus(bench, dict.fromkeys(range(0, 40, 3), QUESTION))}
    others = [Bench(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(StageInterrupted):
        report(others[1], config, dirty, progress=Interrupt())
    built = [report(others[0], config, dirty, workers=1), report(others[1], config, dirty, workers=2)]
    assert built[0].content == built[1].content
    assert built[0].statistics == built[1].statistics
    assert built[0].statistics["benchmarks"]["one"]["documents"] == 14


def test_identity_is_the_files_content(config: Decontaminate, tmp_path: Path) -> None:
    before = decontaminate_identity(config)
    assert [row["name"] for row in before["files"]] == ["one.jsonl.gz", "two.parquet"]
    (tmp_path / "one.jsonl.gz").write_bytes(gzip.compress(b'{"q": "other", "a": "text"}\n'))
    assert decontaminate_identity(config) != before


def test_json_forms(tmp_path: Path) -> None:
    rows = [{"input": "a"}, {"input": "b"}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "object.json").write_text(json.dumps({"canary": "GUID", "examples": rows}))
    (tmp_path / "lines.jsonl.zst").write_bytes(zstandard.compress(b'{"input": "a"}\n\n{"input": "b"}\n'))
    for name in ("list.json", "object.json", "lines.jsonl.zst"):
        benchmark = Benchmark(name="b", paths=(str(tmp_path / name),), columns=("input",))
        assert [(item.texts, item.name) for item in read_items(benchmark)] == [
            (("a",), f"{name}:1"),
            (("b",), f"{name}:2"),
        ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"other": "x"}\n', r"item a\.jsonl:1 has no 'q'; it has other"),
        ("a.jsonl", '{"q": 3}\n', r"item a\.jsonl:1: 'q' holds a int, not text"),
        ("a.jsonl", '{"q": "x"}\nnothing\n', "Expecting value"),
        ("a.jsonl", '["q"]\n', "is not an object"),
        ("a.json", '{"q": "x"}', "neither a list of items"),
        ("a.jsonl.gz", "no gzip", "gzip"),
    ],
)
def test_damaged_benchmarks_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_items(Benchmark(name="mine", paths=(str(path),), columns=("q",))))
    assert str(caught.value).startswith(f"benchmark 'mine': {path}: ")


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    for pattern, message in ((tmp_path / "*.jsonl", "matches no file"), (tmp_path / "a.csv", "is not .jsonl")):
        (tmp_path / "a.csv").write_text("q\n")
        with pytest.raises(ConfigError, match=message):
            decontaminate_identity(
                Decontaminate(benchmarks=(Benchmark(name="mine", paths=(str(pattern),), columns=("q",)),))
            )


@settings(max_examples=200, deadline=None)
@given(
    indexed=st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=6),
    text=st.lists(st.sampled_from("abcdxy"), max_size=40),
)
def test_search_is_exact(indexed: list[list[str]], text: list[str]) -> None:
    """Against comparing every run of words with every other."""
    index = NgramIndex.build(((owner, " ".join(row)) for owner, row in enumerate(indexed)), 4)
    runs = {tuple(text[first : first + 4]) for first in range(len(text) - 3)}
    expected = {
        owner
        for owner, row in enumerate(indexed)
        if any(tuple(row[first : first + 4]) in runs for first in range(len(row) - 3))
    }
    assert set(index.owners_of([gram for gram, _ in index.find(" ".join(text))])) == expected
    for gram, run in index.find(" ".join(text)):
        assert [word for number in index.grams[gram] for word, n in index.vocabulary.items() if n == number] == list(
            run.split()
        )


def test_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a multiplier of 1 a permutation has the same hash: another multiplier is taken, or numbers are compared."""
    monkeypatch.setattr("pipelines.ngrams._MULTIPLIERS", (1, 3))
    index = NgramIndex.build([(0, "a b c d"), (1, "d c b a")], 4)
    assert index.multiplier == 3
    monkeypatch.setattr("pipelines.ngrams._MULTIPLIERS", (1,))
    index = NgramIndex.build([(0, "a b c d")], 4)
    assert index.find("d c b a b c d") == [(0, "a b c d")]
    assert index.find("d c b a") == []


def test_saved_index_finds_the_same(tmp_path: Path) -> None:
    generator = random.Random(1)
    texts = [" ".join(generator.choices("αβγδεζηθ", k=30)) for _ in range(20)]
    index = NgramIndex.build(enumerate(texts), 5)
    again = NgramIndex.load(*index.save(tmp_path / "index"))
    assert np.array_equal(again.hashes, index.hashes)
    for text in texts:
        assert again.find(text) == index.find(text) != []
    empty = NgramIndex.build([], 5)
    assert NgramIndex.load(*empty.save(tmp_path / "empty")).find(texts[0]) == []
