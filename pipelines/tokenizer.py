"""Stage `tokenizer`: train the byte-level BPE tokenizer on a sample of the documents, chosen by their ids' hashes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import Tokenizer
from illada.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from pipelines.background import in_thread
from pipelines.documents import document_files
from pipelines.sample import HashSample, hash64

TOKENIZER_VERSION = 2
_MEASURED_BYTES = 2_000_000  # of the sample, for the statistic bytes_per_token


def build_tokenizer(config: Tokenizer, documents: Artifact, attempt: Attempt, progress: Progress) -> dict[str, Any]:
    """Output: the tokenizer folder. Returns {"vocab_size", "sample_documents", "sample_bytes", "bytes_per_token"}.

    Raises:
        ValueError: no documents, or too few to fill the vocabulary.
    """
    sample = _sample(config, documents, progress)
    texts = sample.items()
    if not texts:
        raise ValueError("no documents to train the tokenizer on: the filters kept nothing; loosen them or add data")
    train = functools.partial(train_tokenizer, texts, config.vocab_size, config.min_frequency)
    backend = in_thread(train, progress, "merges")
    if backend.get_vocab_size() != config.vocab_size:
        raise ValueError(
            f"vocabulary of {config.vocab_size} asked, the sample supports {backend.get_vocab_size()}: "
            "lower data.tokenizer.vocab_size (and model.vocab_size) or add data"
        )
    save_tokenizer(backend, attempt.output)
    return {
        "vocab_size": backend.get_vocab_size(),
        "sample_documents": len(texts),
        "sample_bytes": sample.size,
        "bytes_per_token": _bytes_per_token(TextTokenizer(backend), texts),
    }


def _sample(config: Tokenizer, documents: Artifact, progress: Progress) -> HashSample[str]:
    """Ids of all documents are read, and the texts of those row groups that hold an id whose hash is low enough.

    How low, is guessed from the size of the corpus: twice what should fill the sample, and more when it does not.
    """
    files = document_files(documents)
    metadata = [file.metadata() for file in files]
    size = sum(_text_bytes(footer) for footer in metadata)
    share = min(1.0, 2 * config.sample_bytes / max(1, size))
    while True:
        progress.start(sum(footer.num_rows for footer in metadata), "documents")
        sample: HashSample[str] = HashSample(config.sample_bytes, "tokenizer")
        seen = 0
        for file in files:
            with file.artifact.location.open(file.name) as stream, pq.ParquetFile(stream) as parquet:
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, columns=["id"])["id"].to_pylist()
                    low = [row for row, id_ in enumerate(ids) if hash64(id_, "tokenizer") < share * 2**64]
                    texts = parquet.read_row_group(group, columns=["text"])["text"].take(low).to_pylist() if low else []
                    for row, text in zip(low, texts, strict=True):
                        sample.add(ids[row], text, len(text.encode()))
                    seen += len(ids)
                    progress.update(seen, sample_bytes=sample.size)
        if sample.full or share == 1:
            return sample
        share = min(1.0, 4 * share)


def _text_bytes(footer: pq.FileMetaData) -> int:
    column = footer.schema.to_arrow_schema().get_field_index("text")
    return sum(footer.row_group(group).column(column).total_uncompressed_size for group in range(footer.num_row_groups))


def _bytes_per_token(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    sizes = itertools.accumulate(len(text.encode()) for text in texts)
    measured = [text for text, size in zip(texts, sizes, strict=True) if size <= _MEASURED_BYTES] or texts[:1]
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(measured))
    return sum(len(text.encode()) for text in measured) / tokens
