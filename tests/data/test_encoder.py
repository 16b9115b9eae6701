"""The fast encoder gives the reference's ids, for any text; what differs is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.data.encoder import (
    PROBES,
    Encoded,
    EncoderError,
    FastEncoder,
    ReferenceEncoder,
    differences,
    enclosed,
)
from illada.data.tokenizer import BOS_ID, EOS_ID, SPECIAL_TOKENS, TextTokenizer, save_tokenizer, train_tokenizer

TEXTS = [
    "The quick brown fox doesn't jump over the lazy dog's bed; it'll sleep. " * 5,
    "Der schnelle braune Fuchs springt über den faulen Hund. Быстрая лиса. 素早い茶色の狐。\n\n\tdef f(x):\n",
]
pieces = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*SPECIAL_TOKENS, "'s", "'LL", " ", "\n", "\r\n", "\0", "\u0301", "the", " fox", "12"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, 400, 2), folder)
    return folder


@pytest.fixture(scope="module")
def encoders(folder: Path) -> tuple[FastEncoder, ReferenceEncoder]:
    return FastEncoder(folder), ReferenceEncoder(TextTokenizer.load(folder))


def test_probes_are_equal(encoders: tuple[FastEncoder, ReferenceEncoder]) -> None:
    assert differences(*encoders, [*PROBES, *TEXTS]) == []
    ids = encoders[0].encode(pa.array(PROBES, pa.large_string())).ids
    assert ids.min() >= len(SPECIAL_TOKENS)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.lists(pieces, max_size=12).map("".join), max_size=4))
def test_any_text_is_equal(encoders: tuple[FastEncoder, ReferenceEncoder], texts: list[str]) -> None:
    assert differences(*encoders, texts) == []


def test_characters_of_newer_unicode_are_the_references(encoders: tuple[FastEncoder, ReferenceEncoder]) -> None:
    """gigatoken knows Unicode 17's letters, `tokenizers` does not: "'s" after one is split otherwise."""
    texts = ["plain", "\U000323b0's", "", "\u088f's 1", "plain's"]
    assert differences(*encoders, texts) == []
    array = pa.array(texts[1:2], pa.large_string())
    alone = np.asarray(encoders[0]._backend.encode_batch(texts[1:2], parallel=False)[0])
    assert not np.array_equal(alone, encoders[1].encode(array).ids), "they agree: nothing is left to the reference"


def test_differences_are_seen(encoders: tuple[FastEncoder, ReferenceEncoder]) -> None:
    class Faulty:
        name = "faulty"

        def encode(self, texts: pa.Array) -> Encoded:
            good = encoders[0].encode(texts)
            ids = good.ids.copy()
            ids[good.offsets[1]] += 1
            return Encoded(ids=ids, offsets=good.offsets)

    assert differences(Faulty(), encoders[1], ["one", "two", "three"]) == [1]


def test_a_split_that_it_does_not_know_is_refused(folder: Path, tmp_path: Path) -> None:
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}|\P{N}+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(EncoderError, match="does not take this tokenizer"):
        FastEncoder(tmp_path)


@given(
    texts=st.lists(st.lists(st.integers(7, 300), max_size=5), max_size=6), dtype=st.sampled_from([np.uint16, np.uint32])
)
def test_enclosed(texts: list[list[int]], dtype: type) -> None:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    encoded = Encoded(ids=np.array([id_ for text in texts for id_ in text], np.uint32), offsets=offsets)
    column = enclosed(encoded, dtype)
    assert column.to_pylist() == [[BOS_ID, *text, EOS_ID] for text in texts]
    assert column.type == pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))
