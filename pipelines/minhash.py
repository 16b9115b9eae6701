"""MinHash signatures and near-duplicate clusters (Broder 1997; bands and rows as in Leskovec et al., ch. 3).

Two documents are near-duplicates when all hashes of one band agree, which for similarity s over word shingles happens
with probability 1 - (1 - s^rows)^bands. Signatures are those of datatrove's MinhashDedupSignature, computed by compiled
loops; `clusters` joins the links that one process has (`pipelines.components`: those of many).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from illada.config import Deduplicate
from pipelines.chunk_kernels import number_chunks, signatures
from pipelines.languages import CODE, PYTHON
from pipelines.minhash_kernels import signature
from pipelines.simplify import Bytes, Ints, simplify, simplify_all
from pipelines.startup import numba_alone
from pipelines.words import ChunkTokenizer, word_tokenizer

UInts = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_PRIME = 2**61 - 1
_BATCH_BYTES = 8 * 2**20  # of text at once, or a single longer one


class MinHasher:
    """Signatures for one configuration."""

    def __init__(self, config: Deduplicate) -> None:
        self._ngram, self._shape = config.ngram, (config.bands, config.rows)
        # as datatrove's MinhashDedupSignature draws them, whose module takes half a second to import
        generator, count = np.random.RandomState(config.seed), config.bands * config.rows
        self._a, self._b = (generator.randint(least, _PRIME, dtype=np.uint64, size=count) for least in (1, 0))
        numba_alone()

    def signature(self, text: str, language: str) -> UInts | None:
        """Hashes [bands, rows] of `text`, None when it is shorter than a shingle. Code has the words English would."""
        data = text.encode()
        ends = np.array([len(data)])
        (known,), (hashes,) = self.signatures(np.frombuffer(data, np.uint8), ends - len(data), ends, language)
        return hashes if known else None

    def signatures(self, data: Bytes, begins: Ints, ends: Ints, language: str) -> tuple[Mask, UInts]:
        """Which of many texts in one language have a `signature`, and those [texts, bands, rows], zero of the others.

        Text i is the UTF-8 in data[begins[i]:ends[i]].
        """
        forms, starts = simplify_all(data, begins, ends)
        tokenizer = word_tokenizer("en" if language in (PYTHON, CODE) else language)
        if isinstance(tokenizer, ChunkTokenizer) and tokenizer.phrases.isdisjoint(map(simplify, tokenizer.phrases)):
            numbers, chunks, different = number_chunks(forms, starts)
            words = [" ".join(cut) for cut in tokenizer.words_of(different.tobytes().decode().split("\n")[:-1])]
            joined = np.frombuffer("".join([f"{word}\n" for word in words]).encode(), dtype=np.uint8)
            parts = np.concatenate([[0], np.flatnonzero(joined == ord("\n")) + 1])
            comparable, found = signatures(numbers, chunks, joined, parts, self._ngram, self._a, self._b)
            return comparable, found.reshape(-1, *self._shape)
        comparable = np.zeros(len(begins), dtype=bool)
        found = np.zeros((len(begins), *self._shape), dtype=np.uint64)
        for i in range(len(begins)):
            words = tokenizer.word_tokenize(forms[starts[i] : starts[i + 1]].tobytes().decode().strip())
            if len(words) >= self._ngram:
                text = np.frombuffer(" ".join(words).encode(), dtype=np.uint8)
                places = np.cumsum([0, *(len(word.encode()) + 1 for word in words)])  # words may have blanks in them
                comparable[i] = True
                found[i] = signature(text, places, self._ngram, self._a, self._b).reshape(self._shape)
        return comparable, found

    def keys(self, data: Bytes, starts: Ints, languages: Sequence[str]) -> tuple[Mask, UInts]:
        """Which of many texts have a signature, and the `band_keys` of those [texts, bands, 2], zero of the others.

        Text i is the UTF-8 in data[starts[i]:starts[i + 1]].
        """
        comparable = np.zeros(len(languages), dtype=bool)
        keys = np.zeros((len(languages), self._shape[0], 2), dtype=np.uint64)
        sizes, array = np.diff(starts), np.array(languages, dtype=object)
        for language in dict.fromkeys(languages):
            rows = np.flatnonzero(array == language)
            batches = np.flatnonzero(np.diff(np.cumsum(sizes[rows]) // _BATCH_BYTES)) + 1
            for batch in np.split(rows, batches):
                having, hashes = self.signatures(data, starts[batch], starts[batch + 1], language)
                comparable[batch] = having
                keys[batch[having]] = self.band_keys(hashes[having])
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
