"""The tokenizer stage: a deterministic sample, clear refusals, a usable folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from illada.artifacts import Artifact, Attempt, NoProgress, StageInterrupted
from illada.config import Tokenizer
from illada.data.tokenizer import TextTokenizer
from pipelines.documents import TextDocument
from pipelines.sample import hash64
from pipelines.tokenizer import build_tokenizer


def build(stages, documents: Artifact, name: str = "tokenizer", **config: int) -> Artifact:
    record = Tokenizer(**{"vocab_size": 400, **config})
    return stages.run(name, lambda attempt: build_tokenizer(record, documents, attempt, NoProgress()))


def test_folder_and_statistics(tokenizer: Artifact) -> None:
    assert tokenizer.names == ["tokenizer.json", "tokenizer_config.json"]
    text = TextTokenizer.load(tokenizer.local())
    assert text.vocab_size == tokenizer.statistics["vocab_size"] == 400
    assert tokenizer.statistics["sample_documents"] == 240
    assert 1 < tokenizer.statistics["bytes_per_token"] < 20


def test_order_and_files_do_not_show(stages, texts: list[TextDocument], tokenizer: Artifact) -> None:
    documents = stages.documents("reordered", texts[::-1], files=2)
    assert build(stages, documents).content == tokenizer.content


@pytest.mark.parametrize("guessed", [1, 10**6, 10**12])  # right, and far too great: then it looks again
def test_the_sample_is_chosen_by_hash(
    stages, texts: list[TextDocument], corpus: Artifact, monkeypatch: pytest.MonkeyPatch, guessed: int
) -> None:
    monkeypatch.setattr("pipelines.tokenizer._text_bytes", lambda _: guessed)
    limit = 20_000
    made = build(stages, corpus, sample_bytes=limit)
    ordered = sorted(texts, key=lambda document: hash64(document.id, "tokenizer"))
    count = total = 0
    while total + ordered[count].bytes <= limit:
        total += ordered[count].bytes
        count += 1
    assert (made.statistics["sample_documents"], made.statistics["sample_bytes"]) == (count, total)
    alone = build(stages, stages.documents("only-the", ordered[:count]), "again")
    assert alone.content == made.content


def test_vocabulary_beyond_the_data(stages, corpus: Artifact) -> None:
    with pytest.raises(ValueError, match=r"vocabulary of 50000 asked, the sample supports \d+: lower data\.tokenizer"):
        build(stages, corpus, vocab_size=50_000)
    assert Path(stages.store.root.url).exists() and not list(Path(stages.store.root.url).glob("tokenizer/*/attempt-*"))


def test_no_documents(stages) -> None:
    with pytest.raises(ValueError, match="no documents to train the tokenizer on"):
        build(stages, stages.documents("nothing", []))


class Interrupting(NoProgress):
    """Interrupts in the phase that counts `unit`."""

    def __init__(self, unit: str) -> None:
        self.wanted, self.unit = unit, ""

    def start(self, total: float | None, unit: str) -> None:
        self.unit = unit

    def update(self, done: float, **figures: float | str) -> None:
        if self.unit == self.wanted:
            raise StageInterrupted


def test_interruption_is_heard_while_training(stages, corpus: Artifact) -> None:
    def run(attempt: Attempt) -> dict[str, object]:
        return build_tokenizer(Tokenizer(vocab_size=400), corpus, attempt, Interrupting("merges"))

    with pytest.raises(StageInterrupted):
        stages.run("tokenizer", run)
