"""fastText's compressed language identification model, evaluated several times as fast with the same bits.

fastText looks up each n-gram of characters in a table of nodes; here one bit tells of most of them that they have no
row. The format is that of fastText 0.9.2: a supervised model with quantized input, a hierarchical softmax and subwords.
"""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.language_kernels import hash_of, most_likely, place_all, sum_of_rows
from pipelines.startup import numba_alone

_MAGIC, _VERSION = 793712314, 12
_HIERARCHICAL, _SUPERVISED = 1, 3
_CENTROIDS = 256
_LABEL, _END = b"__label__", b"</s>"

Floats = npt.NDArray[np.float32]


class LanguageModel:
    """A model file, read."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a model of another kind than lid.176.ftz is."""
        numba_alone()
        file = io.BytesIO(path.read_bytes())
        magic, version, dimensions, *_ = numbers = _numbers(file, "<14i")
        word_ngrams, loss, kind, buckets, *sizes = (numbers[place] for place in (7, 8, 9, 10, 11, 12))
        file.read(8)  # the threshold of sampling
        if (magic, version, word_ngrams, loss, kind) != (_MAGIC, _VERSION, 1, _HIERARCHICAL, _SUPERVISED):
            raise ValueError(f"{path}: not a fastText model of a kind that can be read here")
        size, words, labels, _, pruned = _numbers(file, "<3i2q")
        entries = [_entry(file) for _ in range(size)]
        pairs = np.frombuffer(file.read(8 * max(pruned, 0)), np.int32).reshape(-1, 2)
        if pruned <= 0 or not file.read(1)[0] or words + labels != size:
            raise ValueError(f"{path}: not a compressed fastText model")
        rows = _quantized(file, dimensions)
        (quantized,) = file.read(1)
        height, width = _numbers(file, "<2q")
        if quantized or (height, width) != (labels, dimensions) or len(rows) < words + len(pairs):
            raise ValueError(f"{path}: not a fastText model of a kind that can be read here")
        self._output = np.frombuffer(file.read(4 * height * width), np.float32).reshape(height, width)
        self._children = _tree([count for _, count in entries[words:]])
        self.labels = [name.decode().removeprefix(_LABEL.decode()) for name, _ in entries[words:]]
        """Languages, ISO 639 codes."""
        names = [name for name, _ in entries[:words]]
        self._last = names.index(_END)
        slots = np.full(_room(words), -1, np.int32)
        for number, name in enumerate(names):
            slot = int(hash_of(np.frombuffer(name, np.uint8))) % len(slots)
            while slots[slot] >= 0:
                slot = (slot + 1) % len(slots)
            slots[slot] = number
        kept = np.zeros(-(-buckets // 64), np.uint64)
        np.bitwise_or.at(kept, pairs[:, 0] >> 6, np.uint64(1) << (pairs[:, 0] & 63).astype(np.uint64))
        ngrams, ngram_rows = np.full(_room(len(pairs)), -1, np.int32), np.empty(_room(len(pairs)), np.int32)
        place_all(pairs[:, 0].copy(), words + pairs[:, 1], ngrams, ngram_rows)
        letters = np.frombuffer(b"".join(names), np.uint8)
        starts = np.cumsum([0, *map(len, names)], dtype=np.int64)
        marks = np.frombuffer(_LABEL, np.uint8), np.frombuffer(_END, np.uint8)
        self._tables = (
            rows,
            slots,
            letters,
            starts,
            kept,
            ngrams,
            ngram_rows,
            np.uint32(buckets),
            np.array(sizes),
            *marks,
        )

    def predict(self, text: str) -> tuple[str, float]:
        """The most likely language of `text`, read as one line, and its probability.

        Raises UnicodeEncodeError for a text with a lone surrogate.
        """
        total, count = sum_of_rows(np.frombuffer(text.encode(), np.uint8), *self._tables, self._last)
        label, score = most_likely(total, count, self._output, self._children)
        return self.labels[label], float(score)


def _numbers(file: io.BytesIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _entry(file: io.BytesIO) -> tuple[bytes, int]:
    """A word or label, and how often it was in the training data."""
    name = b"".join(iter(lambda: file.read(1), b"\0"))
    count, _ = _numbers(file, "<qb")
    return name, count


def _quantized(file: io.BytesIO, dimensions: int) -> Floats:
    """The rows of a product-quantized matrix."""
    with_norms, height, width, size = _numbers(file, "<?2qi")
    codes = np.frombuffer(file.read(size), np.uint8).reshape(height, -1)
    rows = _decoded(file, codes)
    assert rows.shape == (height, width) and width == dimensions
    return rows * _decoded(file, np.frombuffer(file.read(height), np.uint8)[:, None]) if with_norms else rows


def _decoded(file: io.BytesIO, codes: npt.NDArray[np.uint8]) -> Floats:
    width, parts, part, last = _numbers(file, "<4i")
    centroids = np.frombuffer(file.read(4 * width * _CENTROIDS), np.float32)
    widths = [part] * (parts - 1) + [last]
    tables = np.split(centroids, np.cumsum([_CENTROIDS * each for each in widths])[:-1])
    return np.hstack([table.reshape(_CENTROIDS, -1)[codes[:, place]] for place, table in enumerate(tables)])


def _tree(counts: list[int]) -> npt.NDArray[np.int32]:
    """The Huffman tree over labels, the most frequent first: children of each node, leaves first."""
    labels = len(counts)
    weights = [*counts, *[10**15] * (labels - 1)]
    children = np.full((2 * labels - 1, 2), -1, np.int32)
    leaf, node = labels - 1, labels
    for parent in range(labels, 2 * labels - 1):
        for side in (0, 1):
            if leaf >= 0 and weights[leaf] < weights[node]:
                children[parent, side], leaf = leaf, leaf - 1
            else:
                children[parent, side], node = node, node + 1
        weights[parent] = weights[children[parent, 0]] + weights[children[parent, 1]]
    return children


def _room(count: int) -> int:
    return 1 << math.ceil(math.log2(2 * count + 1))
