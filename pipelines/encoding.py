"""Tokenization of a unit: row groups of documents in, pieces of token shards out, in arrays from end to end.

The fast encoder has to prove itself: on probes and some documents before the stage starts, on the probes in every
worker, and as it goes on one document in a thousand, chosen by the hash of its id. A worker that sees a difference says
so in its unit's statistics and goes on; what the stage does about it is its own matter (`pipelines.tokenize`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import Artifact
from illada.config import Tokenize
from illada.data.encoder import (
    PROBES,
    Encoded,
    Encoder,
    EncoderError,
    FastEncoder,
    ReferenceEncoder,
    differences,
    enclosed,
)
from illada.data.shards import shard_schema, token_dtype
from illada.data.tokenizer import TextTokenizer
from pipelines.documents import DocumentFile
from pipelines.pieces import write_pieces
from pipelines.pool import Unit
from pipelines.sample import hash64, held_out
from pipelines.shared import fetch

SPLITS = ("train", "held_out")
_COLUMNS = ["text", "id", "source", "language"]
_CHECKED = 1000  # one document of so many is encoded twice
_TRIAL_FILES, _TRIAL_DOCUMENTS = 8, 32  # documents a file
_TRIAL_BYTES = 100_000  # of a document


class UnitTokenizer:
    """Worker: tokenizes some row groups of a document file into one file of pieces a split."""

    def __init__(self, tokenizer: Artifact, config: Tokenize, fast: bool) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool's actors are the parallelism
        text = TextTokenizer.load(tokenizer.local())
        self._dtype = token_dtype(text.vocab_size)
        self._config, self._fast = config, fast
        self._reference = ReferenceEncoder(text)
        self._encoder: Encoder = FastEncoder(tokenizer.local()) if fast else self._reference
        self._broken = difference(self._encoder, self._reference, PROBES, "probe") if fast else None

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Writes `train.arrow` and `held_out.arrow`.

        Returns documents and pieces (`pipelines.pieces`) by split, counts by language and source, documents `checked`,
        and the first `mismatch` of the encoders, with which the rest means nothing.
        """
        batches, checked = [], 0
        for table in _tables(unit):
            wrong = self._broken
            if wrong is None:
                try:
                    encoded = self._encoder.encode(table["text"])
                    sample = self._sample(table) if self._fast else []
                    checked += len(sample)
                    wrong = self._first_wrong(table, encoded, sample)
                except EncoderError as error:
                    wrong = f"{unit.name}: {error}"
            if wrong is not None:
                return {"checked": checked, "mismatch": wrong}
            batches.append(_batch(table, enclosed(encoded, self._dtype)))
        batch = pa.concat_batches(batches) if batches else shard_schema(self._dtype).empty_table().to_batches()[0]
        ids = batch.column("id").to_pylist()
        out = np.array([held_out(id_, self._config.held_out, self._config.seed) for id_ in ids], bool)
        groups = {"train": _groups(batch, np.flatnonzero(~out)), "held_out": [("", "", np.flatnonzero(out))]}
        pieces = {
            split: write_pieces(
                output / f"{split}.arrow",
                ((source, language, batch.take(pa.array(rows))) for source, language, rows in some if len(rows)),
            )
            for split, some in groups.items()
        }
        return {
            "train": int((~out).sum()),
            "held_out": int(out.sum()),
            "pieces": {split: [piece.to_json() for piece in some] for split, some in pieces.items()},
            "languages": _counts(batch, "language"),
            "sources": _counts(batch, "source"),
            "checked": checked,
            "mismatch": None,
        }

    def _sample(self, table: pa.RecordBatch) -> list[int]:
        ids = table["id"].to_pylist()
        return [row for row, id_ in enumerate(ids) if hash64(id_, "encoder") < 2**64 // _CHECKED]

    def _first_wrong(self, table: pa.RecordBatch, encoded: Encoded, rows: Sequence[int]) -> str | None:
        expected = self._reference.encode(table["text"].take(pa.array(rows, pa.int64())))
        for number, row in enumerate(rows):
            if not np.array_equal(encoded.of(row), expected.of(number)):
                return f"document {table['id'][row].as_py()}"
        return None


def difference(encoder: Encoder, reference: Encoder, texts: Sequence[str], what: str) -> str | None:
    """What is wrong with an encoder, if something is: it fails, or the first of `texts` that gets other ids."""
    try:
        wrong = differences(encoder, reference, texts)
    except EncoderError as error:
        return str(error)
    return f"{what} {wrong[0] + 1}: {encoder.name} gives other ids than {reference.name}" if wrong else None


def trial(tokenizer: Artifact, files: Sequence[DocumentFile]) -> tuple[int, str | None]:
    """Texts that the fast encoder was tried on, and why it cannot be used (None: it can).

    Tried are the probes and the first documents of some of `files`, of long ones the beginning.
    """
    reference = ReferenceEncoder(TextTokenizer.load(tokenizer.local()))
    try:
        encoder = FastEncoder(tokenizer.local())
    except EncoderError as error:
        return 0, str(error)
    texts = [*PROBES, *_beginnings(files)]
    return len(texts), difference(encoder, reference, texts, "text")


def _beginnings(files: Sequence[DocumentFile]) -> Iterator[str]:
    for file in files[:: max(1, len(files) // _TRIAL_FILES)][:_TRIAL_FILES]:
        with file.artifact.location.open(file.name) as stream, pq.ParquetFile(stream) as parquet:
            for batch in parquet.iter_batches(_TRIAL_DOCUMENTS, row_groups=[0], columns=["text"]):
                yield from (text[:_TRIAL_BYTES] for text in batch["text"].to_pylist())
                break


def _tables(unit: Unit) -> Iterator[pa.RecordBatch]:
    """The row groups of a unit. Raises ValueError for text that is not UTF-8."""
    first, count = unit.payload["first"], unit.payload["count"]
    with pq.ParquetFile(fetch(unit.payload["file"])) as file:
        for group in range(first, min(first + count, file.num_row_groups)):
            for batch in file.read_row_group(group, columns=_COLUMNS).combine_chunks().to_batches():
                batch.validate(full=True)
                yield batch


def _batch(table: pa.RecordBatch, tokens: pa.ListArray) -> pa.RecordBatch:
    text = table["text"]
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    columns = [tokens, table["id"], table["source"], table["language"], pa.array(np.diff(offsets))]
    return pa.RecordBatch.from_arrays(columns, schema=shard_schema(tokens.type.value_type.to_pandas_dtype()))


def _groups(batch: pa.RecordBatch, rows: np.ndarray[Any, Any]) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """Of training data a source and a language each is to be a piece."""
    keys = list(zip(batch["source"].to_pylist(), batch["language"].to_pylist(), strict=True))
    groups: dict[tuple[str, str], list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(keys[row], []).append(row)
    return [(*key, np.array(groups[key], np.int64)) for key in sorted(groups)]


def _counts(batch: pa.RecordBatch, by: str) -> dict[str, dict[str, int]]:
    lengths = pa.array(np.diff(batch["input_ids"].offsets.to_numpy()).astype(np.int64))
    table = pa.table({"key": batch[by], "tokens": lengths, "bytes": batch["bytes"]})
    rows = table.group_by("key").aggregate([([], "count_all"), ("tokens", "sum"), ("bytes", "sum")]).to_pylist()
    return {
        row["key"]: {"documents": row["count_all"], "tokens": row["tokens_sum"], "bytes": row["bytes_sum"]}
        for row in sorted(rows, key=lambda row: row["key"])
    }
