"""Stage `tokenizer`: train the byte-level BPE tokenizer on a sample of the documents, chosen by their ids' hashes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import Tokenizer
from illada.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from pipelines.background import in_thread
from pipelines.documents import document_files, read_documents
from pipelines.sample import HashSample

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
    files = document_files(documents)
    progress.start(sum(file.metadata().num_rows for file in files), "documents")
    sample: HashSample[str] = HashSample(config.sample_bytes, "tokenizer")
    for count, document in enumerate((document for file in files for document in read_documents(file.path())), start=1):
        sample.add(document.id, document.text, document.bytes)
        if count % 256 == 0:
            progress.update(count, sample_bytes=sample.size)
    return sample


def _bytes_per_token(tokenizer: TextTokenizer, texts: Sequence[str]) -> float:
    sizes = itertools.accumulate(len(text.encode()) for text in texts)
    measured = [text for text, size in zip(texts, sizes, strict=True) if size <= _MEASURED_BYTES] or texts[:1]
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(measured))
    return sum(len(text.encode()) for text in measured) / tokens
