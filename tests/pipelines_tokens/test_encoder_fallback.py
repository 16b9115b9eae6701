"""One document that the fast encoder encodes otherwise, and the reference makes all shards; so it does for probes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray

from illada.artifacts import Artifact, NoProgress
from illada.config import DataPlacement, Tokenize
from illada.data.encoder import Encoded, Encoder, EncoderError
from pipelines.encoding import UnitTokenizer
from pipelines.tokenize import tokenize_documents

CONFIG = Tokenize(shard_tokens=5000, held_out=0.1)
WORD = "fetch_78("


@pytest.fixture(scope="module", autouse=True)
def by_value(cluster: None) -> Iterator[None]:
    """Ray's processes cannot import the workers below."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Faulty:
    """Encodes texts that hold a word otherwise, or fails at them."""

    name = "faulty"

    def __init__(self, encoder: Encoder, fails: bool) -> None:
        self._encoder, self._fails = encoder, fails

    def encode(self, texts: pa.Array) -> Encoded:
        encoded = self._encoder.encode(texts)
        ids = encoded.ids.copy()
        for number, text in enumerate(texts.to_pylist()):
            if WORD in text:
                if self._fails:
                    raise EncoderError("gave up")
                ids[encoded.offsets[number]] ^= 1
        return Encoded(ids=ids, offsets=encoded.offsets)


class Differing(UnitTokenizer):
    """Checks every fifth document, the faulty ones among them."""

    fails = False

    def __init__(self, tokenizer: Artifact, config: Tokenize, fast: bool) -> None:
        super().__init__(tokenizer, config, fast)
        if fast:
            self._encoder = Faulty(self._encoder, self.fails)

    def _sample(self, table: pa.RecordBatch) -> list[int]:
        texts = table["text"].to_pylist()
        return [row for row, text in enumerate(texts) if row % 5 == 0 or WORD in text]


class Failing(Differing):
    fails = True


def build(stages, documents: Artifact, tokenizer: Artifact, name: str) -> Artifact:
    placement = DataPlacement(workers=1, cpus_per_worker=0.5)
    return stages.run(
        name, lambda attempt: tokenize_documents(CONFIG, documents, tokenizer, attempt, placement, NoProgress())
    )


@pytest.fixture(scope="module")
def expected(shared, corpus: Artifact, tokenizer: Artifact) -> Artifact:
    return build(shared, corpus, tokenizer, "expected")


def test_it_is_used_where_it_is_equal(expected: Artifact) -> None:
    encoder = expected.statistics["encoder"]
    assert encoder["name"].startswith("gigatoken") and encoder["mismatch"] is None and encoder["checked"] > 60


@pytest.mark.parametrize("worker", [Differing, Failing])
def test_one_difference_and_the_reference_does_all(
    stages, expected: Artifact, corpus: Artifact, tokenizer: Artifact, texts, monkeypatch, worker: type
) -> None:
    monkeypatch.setattr("pipelines.tokenize.UnitTokenizer", worker)
    made = build(stages, corpus, tokenizer, "tokenize")
    encoder = made.statistics["encoder"]
    (culprit,) = [document.id for document in texts if WORD in document.text]
    assert encoder["name"].startswith("tokenizers")
    assert ("gave up" if worker is Failing else culprit) in encoder["mismatch"]
    assert made.content == expected.content


def test_a_failed_trial_leaves_the_reference(
    stages, expected: Artifact, corpus: Artifact, tokenizer: Artifact, monkeypatch
) -> None:
    monkeypatch.setattr("pipelines.encoding.differences", lambda *_: [1])
    made = build(stages, corpus, tokenizer, "tokenize")
    assert made.statistics["encoder"]["mismatch"].startswith("text 2: gigatoken")
    assert made.content == expected.content
