"""MinHash signatures and near-duplicate clusters (Broder 1997; bands and rows as in Leskovec et al., ch. 3).

Two documents are near-duplicates when all hashes of one band agree, which for similarity s over word shingles happens
with probability 1 - (1 - s^rows)^bands. Signatures are those of datatrove's MinhashDedupSignature, computed by compiled
loops; clusters are found for all documents at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

from illada.config import Deduplicate
from pipelines.languages import CODE, PYTHON
from pipelines.minhash_kernels import signature, word_starts
from pipelines.simplify import simplify
from pipelines.words import word_tokenizer

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class MinHasher:
    """Signatures for one configuration."""

    def __init__(self, config: Deduplicate) -> None:
        self._ngram, self._shape = config.ngram, (config.bands, config.rows)
        stock = MinhashDedupSignature(
            output_folder="unused",
            config=MinhashConfig(
                n_grams=config.ngram, num_buckets=config.bands, hashes_per_bucket=config.rows, seed=config.seed
            ),
            language=word_tokenizer("en"),
        )
        self._a, self._b = (parameter.ravel() for parameter in stock.parameters)

    def signature(self, text: str, language: str) -> UInts | None:
        """Hashes [bands, rows] of `text`, None when it is shorter than a shingle. Code has the words English would."""
        words = word_tokenizer("en" if language in (PYTHON, CODE) else language).word_tokenize(simplify(text))
        if len(words) < self._ngram:
            return None
        joined = " ".join(words).encode()
        data = np.frombuffer(joined, dtype=np.uint8)
        if joined.count(b" ") < len(words):
            starts = word_starts(data, len(words))
        else:  # some tokenizers leave blanks in words
            starts = np.cumsum([0, *(len(word.encode()) + 1 for word in words)])
        hashes: UInts = signature(data, starts, self._ngram, self._a, self._b).reshape(self._shape)
        return hashes

    def keys(
        self, data: npt.NDArray[np.uint8], starts: Ints, languages: Sequence[str]
    ) -> tuple[npt.NDArray[np.bool_], UInts]:
        """Which of many texts have a signature, and the `band_keys` of those [texts, bands, 2], zero of the others.

        Text i is the UTF-8 in `data` from starts[i] to starts[i + 1].
        """
        comparable = np.zeros(len(languages), dtype=bool)
        keys = np.zeros((len(languages), self._shape[0], 2), dtype=np.uint64)
        for text, language in enumerate(languages):
            signature = self.signature(data[starts[text] : starts[text + 1]].tobytes().decode(), language)
            if signature is not None:
                comparable[text], keys[text] = True, self.band_keys(signature)
        return comparable, keys

    def band_keys(self, signature: UInts) -> UInts:
        """128 bits a band [..., bands, 2] that are equal where, for all that chance allows, the band's hashes are."""
        data, size = signature.tobytes(), 8 * self._shape[1]
        digests = b"".join([xxhash.xxh3_128_digest(data[at : at + size]) for at in range(0, len(data), size)])
        return np.frombuffer(digests, dtype="<u8").reshape(*signature.shape[:-1], 2).astype(np.uint64)


def first_of_each(keys: UInts) -> Ints:
    """For every row of `keys` [n, 2] the index of the first row that equals it."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    starts = np.ones(len(keys), dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def clusters(count: int, links: list[tuple[Ints, Ints]]) -> Ints:
    """The least member of each node's connected component, for nodes 0 ... count - 1 linked pairwise.

    All links at once: roots adopt the lowest root next to them until nothing changes (Shiloach and Vishkin, 1982).
    """
    parent = np.arange(count)
    a = np.concatenate([link[0] for link in links]) if links else parent[:0]
    b = np.concatenate([link[1] for link in links]) if links else parent[:0]
    while True:
        root_a, root_b = parent[a], parent[b]
        if (root_a == root_b).all():
            return parent
        lower = np.minimum(root_a, root_b)
        np.minimum.at(parent, root_a, lower)
        np.minimum.at(parent, root_b, lower)
        while (parent[parent] != parent).any():
            parent = parent[parent]
