"""Signatures against datatrove's, clusters against union-find, and both against what near-duplicates are."""

from __future__ import annotations

import random

import numpy as np
import pytest
import xxhash
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.text import simplify_text
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import SENTENCES, prose

from illada.config import Deduplicate
from pipelines.languages import CODE
from pipelines.minhash import MinHasher, clusters, first_of_each
from pipelines.minhash_kernels import xxh64
from pipelines.simplify import simplify

TEXTS = [
    *("\n".join(prose("en", seed)) for seed in range(5)),
    "Ünïcödé — CAFÉ n° 3,14 and 1.000.000; 漢字 ١٢٣ e\u0301 \u0300x  …  (brackets) [1] don't\tstop",
    "def f(x):\n    return {'a': x[0], \"b\": 0x1F}  # comment",
    "five words are one shingle",
    "word " * 3000,
    "En EE. UU. y los EE. UU. de América, etc. etc.",
    "a" * 100 + " " + "\u6f22" * 50 + " b c d e",
    "ΟΔΟΣ ΣΟΦΙΑΣ. Σ 5Σ, Σ\u0301 ΑΣ\u0301Σ (Σ) and the sum ΣΣ of all",
    " ".join(f"w{number}".translate(str.maketrans("0123456789", "abcdefghij")) for number in range(10_000)),
]


@pytest.mark.parametrize("shape", [(5, 14, 8, 1), (2, 3, 4, 7), (13, 20, 1, 1)])
@pytest.mark.parametrize("language", ["en", "de", "es"])
def test_signatures_are_datatroves(shape: tuple[int, int, int, int], language: str) -> None:
    ngram, bands, rows, seed = shape
    ours = MinHasher(Deduplicate(ngram=ngram, bands=bands, rows=rows, seed=seed))
    theirs = MinhashDedupSignature(
        "unused", MinhashConfig(n_grams=ngram, num_buckets=bands, hashes_per_bucket=rows, seed=seed), language=language
    )
    theirs._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # xxhash 4 takes bytes only
    for text in TEXTS:
        shingles = theirs.get_shingles(text)
        signature = ours.signature(text, language)
        if not shingles.size:
            assert signature is None
        else:
            assert signature is not None
            assert signature.tolist() == theirs.get_signature(shingles)


def test_many_texts_at_once_have_the_keys_each_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.minhash._BATCH_BYTES", 10_000)
    hasher = MinHasher(Deduplicate())
    texts = [*TEXTS, "", "too short", *reversed(TEXTS)]
    languages = [("en", "de", CODE, "el", "zh")[i % 5] for i in range(len(texts))]
    data = [text.encode() for text in texts]
    starts = np.cumsum([0, *map(len, data)])
    comparable, keys = hasher.keys(np.frombuffer(b"".join(data), np.uint8), starts, languages)
    for i, (text, language) in enumerate(zip(texts, languages, strict=True)):
        alone = hasher.signature(text, language)
        assert comparable[i] == (alone is not None)
        assert keys[i].tolist() == (np.zeros((14, 2)) if alone is None else hasher.band_keys(alone)).tolist()
    assert hasher.keys(np.empty(0, np.uint8), np.zeros(1, np.int64), [])[1].shape == (0, 14, 2)


@pytest.mark.parametrize("text", TEXTS)
def test_normal_form_is_datatroves(text: str) -> None:
    assert simplify(text) == simplify_text(text)


@settings(max_examples=500, deadline=None)
@given(
    st.text(st.characters() | st.sampled_from("aB 1.,٫3٣é\u0301\u0327\u1039\u302e\n\t\x1f；ÀİΣ한국\u1fef"), max_size=40)
)
def test_normal_form_of_noise(text: str) -> None:
    assert simplify(text) == simplify_text(text)


@pytest.mark.parametrize("size", [*range(40), 63, 64, 200])
def test_hashes_are_xxhash64(size: int) -> None:
    data = random.Random(size).randbytes(size + 3)
    assert int(xxh64(np.frombuffer(data, np.uint8), 2, size + 2)) == xxhash.xxh64_intdigest(data[2 : size + 2])


def test_too_short_for_a_shingle() -> None:
    hasher = MinHasher(Deduplicate())
    assert hasher.signature("", "en") is None
    assert hasher.signature("one two three four", "en") is None
    assert hasher.signature("one two three four five", "en") is not None


def test_band_keys_are_equal_where_bands_are() -> None:
    hasher = MinHasher(Deduplicate(bands=3, rows=2))
    a = np.arange(6, dtype=np.uint64).reshape(3, 2)
    b = a.copy()
    b[1, 1] += 1
    equal = (hasher.band_keys(a) == hasher.band_keys(b)).all(axis=1)
    assert equal.tolist() == [True, False, True]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_first_of_each_row(rows: list[tuple[int, int]]) -> None:
    keys = np.array(rows, dtype=np.uint64).reshape(-1, 2)
    assert first_of_each(keys).tolist() == [rows.index(row) for row in rows]


@settings(max_examples=200)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_clusters_are_connected_components(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a, b) for a, b in pairs if a < count and b < count]
    parent = list(range(count))

    def find(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for a, b in pairs:
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    links = [(np.array([a]), np.array([b])) for a, b in pairs]
    assert clusters(count, links).tolist() == [find(node) for node in range(count)]


def test_near_copies_share_a_band_and_other_texts_do_not() -> None:
    hasher = MinHasher(Deduplicate())

    def keys(words: list[str]) -> set[bytes]:
        signature = hasher.signature(" ".join(words), "en")
        assert signature is not None
        return {key.tobytes() + bytes([band]) for band, key in enumerate(hasher.band_keys(signature))}

    original = " ".join(SENTENCES["en"].split()).split()
    copy = list(original)
    copy[100] = "changed"
    copy[250] = "altered"
    assert keys(original) & keys(copy)
    assert not keys(original) & keys(" ".join(SENTENCES["de"].split()).split())
