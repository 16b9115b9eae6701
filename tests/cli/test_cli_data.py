"""`illada data inspect`, `stats` and `search` on a run whose few documents are known one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import Result

from illada.artifacts import Attempt, Progress, StageIdentity, Store
from illada.cli.visible import visible
from illada.data.corpora import publish
from illada.data.shards import ShardWriter, document_batch, token_dtype
from illada.data.snapshots import STAGE, build_snapshot, read_snapshot
from illada.data.tokenizer import BOS_ID, EOS_ID, TextTokenizer, save_tokenizer, train_tokenizer
from illada.durable.engine import StageRunner, execute
from illada.durable.runs import RunRegistry
from pipelines.documents import TextDocument, write_documents

NASTY = "\x1b[2Jwiped\x07 and \u202ereversed\u202c, tab\tkept"


def document(number: int, text: str, **columns: Any) -> TextDocument:
    url = f"https://www.site{number % 2}.co.uk/{number}"
    fields = {"url": url, "source": "web", "language": "en", "language_score": 0.9, **columns}
    return TextDocument(text=text, id=f"{number:032x}", **fields)


DOCUMENTS = [
    document(0, "The quick brown fox jumps over the lazy dog."),
    document(1, "Der schnelle braune Fuchs springt über den faulen Hund.", language="de"),
    document(2, f"A terminal is {NASTY}"),
    document(3, "def fox():\n    return 'fox'\n", source="code", language="python", url=""),
]
REJECTED = [
    {"id": f"{9:032x}", "url": "https://bad.example/x", "source": "web", "language": "en", "step": "gopher-quality",
     "reason": "short_document", "text": "too short"},
    {"id": f"{10:032x}", "url": "https://bad.example/y", "source": "web", "language": "en", "step": "c4",
     "reason": "lorem_ipsum", "text": "lorem ipsum"},
]  # fmt: skip


def build_curated(attempt: Attempt, progress: Progress) -> dict[str, Any]:
    write_documents(attempt.output / "documents" / "00000.parquet", DOCUMENTS[:2])
    write_documents(attempt.output / "documents" / "00001.parquet", [*DOCUMENTS[2:], DOCUMENTS[0]])
    (attempt.output / "rejected").mkdir()
    pq.write_table(pa.Table.from_pylist(REJECTED), attempt.output / "rejected" / "00000.parquet")
    return {}


def build_deduplicated(attempt: Attempt, progress: Progress) -> dict[str, Any]:
    write_documents(attempt.output / "documents" / "00000.parquet", DOCUMENTS)
    return {}


def build_tokenizer(attempt: Attempt, progress: Progress) -> dict[str, Any]:
    save_tokenizer(train_tokenizer([row.text for row in DOCUMENTS], 300, 2), attempt.output)
    return {}


@pytest.fixture
def demo(engine: sa.Engine, tmp_path: Path) -> Store:
    """Run "demo" with stages curate, deduplicate, tokenizer, tokenize; returns its store."""
    store = Store(tmp_path / "store")

    def graph(runner: StageRunner) -> dict[str, Any]:
        curated = runner.stage("curate", 1, {}, {}, build_curated)
        documents = runner.stage("deduplicate", 1, {}, {"curated": curated.fingerprint}, build_deduplicated)
        tokenizer = runner.stage("tokenizer", 1, {}, {"documents": documents.fingerprint}, build_tokenizer)

        def build_tokens(attempt: Attempt, progress: Progress) -> dict[str, Any]:
            text = TextTokenizer.load(tokenizer.local())
            for split, rows in (("train", DOCUMENTS[:3]), ("held_out", DOCUMENTS[3:])):
                writer = ShardWriter(attempt.output / split, vocab_size=text.vocab_size, shard_tokens=1000)
                batch = document_batch(
                    [[BOS_ID, *text.encode(row.text).tolist(), EOS_ID] for row in rows],
                    ids=[row.id for row in rows],
                    sources=[row.source for row in rows],
                    languages=[row.language for row in rows],
                    sizes=[row.bytes for row in rows],
                    dtype=token_dtype(text.vocab_size),
                )
                writer.add(batch)
                writer.close()
            empty = dict.fromkeys(("documents", "tokens", "bytes", "shards"), 0)
            return {"train": empty, "held_out": empty, "languages": {}, "sources": {}}

        inputs = {"documents": documents.fingerprint, "tokenizer": tokenizer.fingerprint}
        runner.stage("tokenize", 1, {}, inputs, build_tokens)
        return {}

    registered = RunRegistry(engine).create("demo", "x: 1\n", {"x": 1}, store.root.url, ["illada"])
    execute(registered, engine, graph)
    return store


Invoke = Callable[..., Result]


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.output.splitlines()]


@pytest.mark.usefixtures("demo")
def test_documents_are_shown_and_chosen(illada: Invoke) -> None:
    output = illada("data", "inspect", "demo").output
    assert [output.index(row.id) for row in DOCUMENTS] == sorted(output.index(row.id) for row in DOCUMENTS)
    assert "The quick brown fox" in output and "url: https://www.site0.co.uk/0" in output
    chosen = lines(illada("data", "inspect", "demo", "--language", "de", "--json"))
    assert [row["text"] for row in chosen] == [DOCUMENTS[1].text]
    by_domain = lines(illada("data", "inspect", "demo", "--domain", "site0.co.uk", "--json"))
    assert [row["id"] for row in by_domain] == [DOCUMENTS[0].id, DOCUMENTS[2].id]
    assert len(lines(illada("data", "inspect", "demo", "--stage", "curate", "--json"))) == 5
    assert "no such document" in illada("data", "inspect", "demo", "--source", "nowhere").output
    cut = illada("data", "inspect", "demo", "--limit", "1", "--characters", "9").output
    assert "The quick ... (35 more characters" in cut


@pytest.mark.usefixtures("demo")
def test_rejected_documents_with_their_reasons(illada: Invoke) -> None:
    output = illada("data", "inspect", "demo", "--rejected").output
    assert "reason: short_document" in output and "step: c4" in output
    chosen = lines(illada("data", "inspect", "demo", "--rejected", "--reason", "lorem_ipsum", "--json"))
    assert chosen == [REJECTED[1]]
    with pytest.raises(ValueError, match="add --rejected"):
        illada("data", "inspect", "demo", "--reason", "x")


@pytest.mark.usefixtures("demo")
def test_other_peoples_text_does_not_reach_the_terminal_raw(illada: Invoke) -> None:
    for command in (("inspect", "demo"), ("search", "demo", "wiped"), ("inspect", "demo", "--tokens")):
        output = illada("data", *command).output
        assert not set("\x1b\x07\u202e") & set(output), command
        assert "\\x1b" in output
    assert visible("a\r\nb\tc\x9b\ufeff") == "a\\x0d\nb\tc\\x9b\\ufeff"


def test_tokens_with_boundaries(illada: Invoke, demo: Store) -> None:
    (shown,) = lines(illada("data", "inspect", "demo", "--tokens", "--id", DOCUMENTS[1].id, "--json"))
    names = [piece for _, piece in shown["tokens"]]
    assert names[0] == "<|bos|>" and names[-1] == "<|eos|>"
    assert "\\xc3" in names and "\\xbc" in names, "half a character is shown as its byte"
    assert shown["split"] == "train"
    tokenizer = TextTokenizer.load(demo.artifacts("tokenizer")[0].local())
    assert tokenizer.decode([token for token, _ in shown["tokens"]]) == DOCUMENTS[1].text
    output = illada("data", "inspect", "demo", "--tokens", "--source", "code").output
    assert "held_out" in output and "<|bos|>\u00a6" in output and "\\n" in output
    with pytest.raises(ValueError, match="not url"):
        illada("data", "inspect", "demo", "--tokens", "--url", "x")


def test_training_windows_by_number(illada: Invoke, demo: Store) -> None:
    """All windows one after another are the stream of tokens, and name the documents these belong to."""
    tokenizer = TextTokenizer.load(demo.artifacts("tokenizer")[0].local())
    stream = [
        (token, row.id) for row in DOCUMENTS[:3] for token in (BOS_ID, *tokenizer.encode(row.text).tolist(), EOS_ID)
    ]
    length, shards = 7, str(demo.artifacts("tokenize")[0].local("train"))
    numbers = ",".join(map(str, range(len(stream) // length)))
    for target in ("demo", demo.artifacts("tokenize")[0].root.url, shards):
        shown = lines(illada("data", "inspect", target, "--windows", numbers, "--length", "7", "--json"))
        assert [token for window in shown for token, _ in window["tokens"]] == [t for t, _ in stream][: 7 * len(shown)]
        for window in shown:
            ids = [name for _, name in stream[window["first"] : window["first"] + length]]
            assert window["documents"] and sum(row["tokens"] for row in window["documents"]) == length
            assert {row["id"]: row["tokens"] for row in window["documents"]} == {name: ids.count(name) for name in ids}
    output = illada("data", "inspect", shards, "--windows", "2,0", "--length", "7").output
    assert output.index("window 2 ") < output.index("window 0 ") and f"document: {DOCUMENTS[0].id}" in output
    for wrong, said in (
        (["--windows", "999", "--length", "7"], f"no window 999: .* has {len(stream) // length} of 7 tokens"),
        (["--windows", "1-3", "--length", "7"], "numbers with commas"),
        (["--windows", "1"], "go together"),
    ):
        with pytest.raises(ValueError, match=said):
            illada("data", "inspect", shards, *wrong)


def test_figures_add_up(illada: Invoke, demo: Store) -> None:
    figures = json.loads(illada("data", "stats", "demo", "--json").output)
    documents, tokens = figures["documents"], figures["tokens"]
    size = sum(row.bytes for row in DOCUMENTS)
    for part in (documents, tokens):
        assert (part["documents"], part["bytes"]) == (4, size)
        assert sum(part["lengths"].values()) == 4
        assert {name: row["documents"] for name, row in part["languages"].items()} == {"de": 1, "en": 2, "python": 1}
    assert documents["domains"][""]["documents"] == 1
    tokenizer = TextTokenizer.load(demo.artifacts("tokenizer")[0].local())
    assert tokens["tokens"] == sum(len(tokenizer.encode(row.text)) + 2 for row in DOCUMENTS)
    assert tokens["bytes_per_token"] == round(size / tokens["tokens"], 4)
    assert tokens["splits"]["held_out"]["documents"] == 1
    assert documents["lengths"] == {"32": 1, "64": 3}, "28 bytes are below 32, the others below 64"
    shown = illada("data", "stats", "demo").output
    assert "4 documents" in shown and "site0.co.uk" in shown and "bytes a token" in shown


@pytest.mark.usefixtures("demo")
def test_search(illada: Invoke) -> None:
    hits = lines(illada("data", "search", "demo", "fox", "--json", "--context", "6"))
    assert [(hit["id"], hit["before"], hit["match"], hit["after"]) for hit in hits] == [
        (DOCUMENTS[0].id, "brown ", "fox", " jumps"),
        (DOCUMENTS[3].id, "def ", "fox", "():\n  "),
    ]
    either = lines(illada("data", "search", "demo", "f[ou][xc]h?s?", "--regex", "-i", "--json"))
    assert [hit["match"] for hit in either] == ["fox", "Fuchs", "fox"]
    assert len(lines(illada("data", "search", "demo", "fox", "--limit", "1", "--json"))) == 1
    (found,) = lines(illada("data", "search", "demo", "--url", DOCUMENTS[2].url, "--json"))
    assert found["id"] == DOCUMENTS[2].id
    assert "1 document" in illada("data", "search", "demo", "over the").output
    assert len(lines(illada("data", "search", "demo", "lorem", "--rejected", "--json"))) == 1
    with pytest.raises(ValueError, match="not a regular expression"):
        illada("data", "search", "demo", "(", "--regex")
    with pytest.raises(ValueError, match="say what to look for"):
        illada("data", "search", "demo")


def test_paths_are_looked_into_too(illada: Invoke, demo: Store, tmp_path: Path) -> None:
    artifact = demo.artifacts("deduplicate")[0]
    file = artifact.path("documents/00000.parquet")
    for target in (str(file), str(file.parent), artifact.root.url):
        assert len(lines(illada("data", "inspect", target, "--json"))) == 4, target
    shards = shutil.copytree(demo.artifacts("tokenize")[0].local("train"), tmp_path / "shards")
    (bare,) = lines(illada("data", "inspect", str(shards), "--language", "de", "--json"))
    assert bare["tokens"][0] == BOS_ID, "ids only: nothing says which tokenizer"
    rejected = demo.artifacts("curate")[0].path("rejected/00000.parquet")
    assert len(lines(illada("data", "inspect", str(rejected), "--rejected", "--json"))) == 2
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        illada("data", "inspect", str(tmp_path / "no.parquet"))
    with pytest.raises(ValueError, match="has built no 'sft'; it has curate, deduplicate"):
        illada("data", "inspect", "demo", "--stage", "sft")
    with pytest.raises(ValueError, match="has no documents"):
        illada("data", "search", "demo", "x", "--stage", "tokenize")


def test_snapshots_are_looked_into_by_name(illada: Invoke, demo: Store) -> None:
    built = {stage: demo.artifacts(stage)[0] for stage in ("curate", "deduplicate", "tokenizer", "tokenize")}
    inputs = {"tokens": built["tokenize"].fingerprint, "tokenizer": built["tokenizer"].fingerprint}
    with demo.attempt(StageIdentity(stage=STAGE, version=1, config={}, inputs=inputs)) as attempt:
        statistics = build_snapshot(demo, "web", {}, None, {}, built, attempt)
        assert publish(read_snapshot(demo, demo.publish(attempt, statistics, {}, 0.0)), built["curate"])
    place = ("--store", demo.root.url)
    assert len(lines(illada("data", "inspect", "web@1", "--json", *place))) == 4, "deduplicated ones"
    assert len(lines(illada("data", "inspect", "web@1", "--rejected", "--json", *place))) == 2
    (shown,) = lines(illada("data", "inspect", "web@1", "--tokens", "--language", "python", "--json", *place))
    assert shown["split"] == "held_out" and shown["tokens"][0] == [BOS_ID, "<|bos|>"]
    figures = json.loads(illada("data", "stats", "web@1", "--json", *place).output)
    assert figures["documents"]["documents"] == figures["tokens"]["documents"] == 4
