"""The tokenize stage: every document once, in order, on one side; the same bytes whatever runs it or kills it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines.tokenize
from illada.artifacts import Artifact, NoProgress, StageIdentity, StageInterrupted
from illada.config import DataPlacement, Tokenize
from illada.data.shards import TokenShards
from illada.data.tokenizer import BOS_ID, EOS_ID, TextTokenizer
from pipelines.documents import TextDocument
from pipelines.sample import held_out
from pipelines.tokenize import tokenize_documents

CONFIG = Tokenize(shard_tokens=5000, held_out=0.1)
pytestmark = pytest.mark.usefixtures("cluster")


def build(stages, documents: Artifact, tokenizer: Artifact, name: str = "tokenize", **options: object) -> Artifact:
    config = options.get("config", CONFIG)
    placement = DataPlacement(workers=int(options.get("workers", 1)), cpus_per_worker=0.5)
    progress = options.get("progress", NoProgress())
    return stages.run(
        name, lambda attempt: tokenize_documents(config, documents, tokenizer, attempt, placement, progress)
    )


@pytest.fixture(scope="module")
def tokens(cluster: None, shared, corpus: Artifact, tokenizer: Artifact) -> Artifact:
    return build(shared, corpus, tokenizer)


def rows(artifact: Artifact, split: str) -> list[tuple[str, list[int], int, str]]:
    shards = TokenShards.open(artifact.local() / split)
    return [
        (row["id"], row["input_ids"], row["bytes"], row["source"] + "/" + row["language"])
        for index in range(len(shards))
        for row in shards.batch(index).to_pylist()
    ]


def test_every_document_once_in_order_of_its_group(
    tokens: Artifact, tokenizer: Artifact, texts: list[TextDocument]
) -> None:
    text = TextTokenizer.load(tokenizer.local())
    expected: dict[str, list[object]] = {"train": [], "held_out": []}
    for document in texts:
        ids = [BOS_ID, *text.encode(document.text).tolist(), EOS_ID]
        side = "held_out" if held_out(document.id, CONFIG.held_out, CONFIG.seed) else "train"
        expected[side].append((document.id, ids, document.bytes, f"{document.source}/{document.language}"))
    expected["train"].sort(key=lambda row: row[3])
    for split, theirs in expected.items():
        assert rows(tokens, split) == theirs
        assert theirs


def test_text_comes_back(tokens: Artifact, tokenizer: Artifact, texts: list[TextDocument]) -> None:
    text, wanted = TextTokenizer.load(tokenizer.local()), {document.id: document.text for document in texts}
    for split in ("train", "held_out"):
        for name, ids, size, _ in rows(tokens, split):
            assert text.decode(ids) == wanted[name]
            assert text.token_bytes[ids].sum() == size


def test_statistics_add_up(tokens: Artifact, texts: list[TextDocument]) -> None:
    statistics = tokens.statistics
    splits = [statistics["train"], statistics["held_out"]]
    assert sum(split["documents"] for split in splits) == len(texts)
    assert sum(split["bytes"] for split in splits) == sum(document.bytes for document in texts)
    for group in ("languages", "sources"):
        for key in ("documents", "tokens", "bytes"):
            assert sum(entry[key] for entry in statistics[group].values()) == sum(split[key] for split in splits)
    assert set(statistics["languages"]) == {"en", "fr", "de", "es", "python"}
    assert statistics["train"]["shards"] > 1
    shards = TokenShards.open(tokens.local("train"))
    assert (len(shards), shards.tokens) == (statistics["train"]["shards"], statistics["train"]["tokens"])


def test_workers_and_file_boundaries_do_not_show(
    stages, tokens: Artifact, tokenizer: Artifact, corpus: Artifact, texts: list[TextDocument]
) -> None:
    assert build(stages, corpus, tokenizer, workers=2).content == tokens.content
    one_file = stages.documents("one-file", texts, files=1)
    assert build(stages, one_file, tokenizer, "other-files").content == tokens.content


class StopAfter(NoProgress):
    """Interrupts once something was done in the given phase."""

    def __init__(self, phase: str) -> None:
        self.phase, self.unit = phase, ""

    def start(self, total: float | None, unit: str) -> None:
        self.unit = unit

    def update(self, done: float, **figures: float | str) -> None:
        if self.unit == self.phase and done:
            raise StageInterrupted


@pytest.mark.parametrize("phase", ["documents", "tokens in shards"])
def test_interrupted_equals_uninterrupted(
    stages, tokens: Artifact, tokenizer: Artifact, corpus: Artifact, phase: str
) -> None:
    with pytest.raises(StageInterrupted):
        build(stages, corpus, tokenizer, progress=StopAfter(phase))
    identity = StageIdentity(stage="tokenize", version=1, config={}, inputs={})
    markers = list(
        (Path(stages.store.root.url) / "tokenize" / identity.fingerprint[:32] / "work" / "units").glob("*.json")
    )
    assert markers, "finished units are kept for the next attempt"
    assert build(stages, corpus, tokenizer).content == tokens.content


def test_same_side_whatever_else_there_is(
    stages, tokens: Artifact, tokenizer: Artifact, texts: list[TextDocument]
) -> None:
    some = build(stages, stages.documents("half", texts[::2]), tokenizer)
    for split in ("train", "held_out"):
        assert {row[0] for row in rows(some, split)} <= {row[0] for row in rows(tokens, split)}


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("row_groups", lambda groups: [[*groups[0], 7], *groups[1:]], r"read 247 documents but tokenized 240"),
        ("_join", lambda splits: {**splits, "held_out": {**splits["held_out"], "tokens": 7}}, r"shards have \d+ of 7$"),
        ("_join", lambda splits: {**splits, "train": {**splits["train"], "documents": 7}}, r"shards have 7 of \d+$"),
    ],
)
def test_what_is_unaccounted_for_is_not_published(
    stages,
    corpus: Artifact,
    tokenizer: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    change: Callable[[Any], Any],
    message: str,
) -> None:
    real = getattr(pipelines.tokenize, what)
    monkeypatch.setattr(pipelines.tokenize, what, lambda *given: change(real(*given)))
    with pytest.raises(AssertionError, match=message):
        build(stages, corpus, tokenizer, config=Tokenize(shard_tokens=10**6, held_out=0.1))


def test_an_empty_split_is_refused(stages, tokenizer: Artifact, texts: list[TextDocument]) -> None:
    few = [document for document in texts if not held_out(document.id, CONFIG.held_out, CONFIG.seed)][:5]
    with pytest.raises(
        ValueError, match=r"splits 5 documents into 5 for training and 0 held out.*raise data\.tokenize"
    ):
        build(stages, stages.documents("few", few), tokenizer)
