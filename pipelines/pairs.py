"""Stage `pairs`: conversations for instruction tuning, rendered with the chat template into token shards.

They come from the user's JSON-lines files, or are derived from the curated documents (`pipelines.derive`). In iLLaDA's
unified format (arXiv 2606.25331) prompt, response and EOS are concatenated into one corpus that is windowed and masked
like pretraining text, so the shards are ordinary ones. Their index tells what responses follow, for LLaDA's format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Progress, atomic_path
from illada.config import Decontaminate, Pairs
from illada.data.shards import ShardWriter, token_dtype
from illada.data.tokenizer import TextTokenizer
from pipelines.conversation import Conversation, read_conversations
from pipelines.decontaminate import indexed_items
from pipelines.derive import derive_conversations
from pipelines.documents import document_files, read_documents
from pipelines.rows import TokenRow, count_by, rows_batch
from pipelines.sample import HashSample, hash64, held_out

PAIRS_VERSION = 3
_SHARD_TOKENS = 2**28
_ROWS_TOGETHER = 256


def build_pairs(
    config: Pairs,
    documents: Sequence[Artifact],
    tokenizer: Artifact,
    attempt: Attempt,
    progress: Progress,
    *,
    unseen: Decontaminate | None = None,
) -> dict[str, Any]:
    """Output: the shard folders `train/` and `held_out/`, and `pairs.parquet` (kind, id, messages as JSON).

    At most `max_pairs` conversations, chosen by hash and spread evenly over their kinds, in the order of their hashes.
    A conversation that shares an n-gram with a benchmark of `unseen` is dropped, if that says to remove anything. What
    tokenization holds out (by the same seed and no greater fraction) never gives one for training.

    Returns {"train": {"documents", "tokens", "bytes", "shards"}, "held_out": {same}, "languages": {name: {"documents",
    "tokens", "bytes"}}, "sources": {same}, "origins": {kind: conversations}, "contaminated": conversations dropped}.

    Raises:
        ValueError: a file's line is not a conversation, or there are not two conversations of different documents.
    """
    found = _from_files(config, progress) if config.files else _from_documents(config, documents, progress)
    cleaner = _Cleaner(unseen if unseen and unseen.removes else None)
    samples: dict[str, HashSample[Conversation]] = {}
    for conversation in cleaner.clean(found):
        sample = samples.setdefault(conversation.kind, HashSample(config.max_pairs, f"pairs/{config.seed}"))
        sample.add(conversation.id, conversation)
    chosen = _balanced({kind: sample.items() for kind, sample in samples.items()}, config.max_pairs)
    chosen.sort(key=lambda conversation: hash64(conversation.id, f"pairs/{config.seed}"))
    splits = _split(config, chosen)

    _write_table(attempt, chosen)
    encoder = TextTokenizer.load(tokenizer.local())
    progress.start(len(chosen), "conversations")
    totals, rows = {}, []
    for split, conversations in splits.items():
        writer = ShardWriter(attempt.output / split, vocab_size=encoder.vocab_size, shard_tokens=_SHARD_TOKENS)
        for start in range(0, len(conversations), _ROWS_TOGETHER):
            batch = [_row(encoder, conversation) for conversation in conversations[start : start + _ROWS_TOGETHER]]
            writer.add(rows_batch(batch, token_dtype(encoder.vocab_size)))
            rows += batch
            progress.update(len(rows))
        totals[split] = writer.close(encoder.response_prefix)
    return {
        **totals,
        "languages": count_by(rows, lambda row: row.language),
        "sources": count_by(rows, lambda row: row.source),
        "origins": dict(sorted(Counter(conversation.kind for conversation in chosen).items())),
        "contaminated": cleaner.dropped,
    }


class _Cleaner:
    """Leaves out conversations that hold an n-gram of a benchmark, and counts them."""

    def __init__(self, config: Decontaminate | None) -> None:
        self._index = indexed_items(config)[1] if config else None
        self.dropped = 0

    def clean(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        for conversation in conversations:
            if self._index and any(self._index.find(message["content"]) for message in conversation.messages):
                self.dropped += 1
            else:
                yield conversation


def _from_files(config: Pairs, progress: Progress) -> Iterator[Conversation]:
    progress.start(None, "conversations read")
    for count, conversation in enumerate(read_conversations(config.files), start=1):
        yield conversation
        if count % _ROWS_TOGETHER == 0:
            progress.update(count)


def _from_documents(config: Pairs, documents: Sequence[Artifact], progress: Progress) -> Iterator[Conversation]:
    """Conversations of up to `max_pairs` documents of code, and as many with a title, chosen by hash.

    Two passes, so that memory holds only the chosen documents' ids: the first reads three narrow columns.
    """
    files = [file for artifact in documents for file in document_files(artifact)]
    code, titled = (HashSample[str](config.max_pairs, f"pairs/{config.seed}") for _ in range(2))
    progress.start(len(files), "document files")
    for number, file in enumerate(files):
        progress.update(number)
        with pq.ParquetFile(file.path()) as reader:
            for batch in reader.iter_batches(columns=["id", "language", "title"]):
                for row in batch.to_pylist():
                    if row["language"] == "python":
                        code.add(row["id"], row["id"])
                    elif row["title"].strip():
                        titled.add(row["id"], row["id"])
    wanted = {*code.items(), *titled.items()}
    progress.start(len(wanted), "documents")
    seen = 0
    for file in files:
        for document in read_documents(file.path()):
            if document.id in wanted:
                yield from derive_conversations(document, config.max_characters)
                seen += 1
                progress.update(seen)


def _balanced(kinds: Mapping[str, Sequence[Conversation]], limit: int) -> list[Conversation]:
    """Up to `limit` conversations with equal shares of each kind; what a small kind leaves goes to the others."""
    chosen: list[Conversation] = []
    ascending = sorted(kinds, key=lambda kind: (len(kinds[kind]), kind))
    for index, kind in enumerate(ascending):
        share = (limit - len(chosen)) // (len(ascending) - index)
        chosen += kinds[kind][:share]
    return chosen


def _split(config: Pairs, chosen: Sequence[Conversation]) -> dict[str, list[Conversation]]:
    """Train and held-out; all conversations of a document fall on one side, and neither side is empty."""
    origins = {conversation.origin for conversation in chosen}
    if len(origins) < 2:
        raise ValueError(
            f"{len(chosen)} conversations from {len(origins)} documents cannot be split into training and held-out: "
            "add documents, or name conversations in data.pairs.files"
        )
    out = {origin for origin in origins if held_out(origin, config.held_out, config.seed)}
    by_hash = sorted(origins, key=lambda origin: hash64(origin, f"held-out/{config.seed}"))
    out = out - {by_hash[-1]} or {by_hash[0]}
    return {
        "train": [conversation for conversation in chosen if conversation.origin not in out],
        "held_out": [conversation for conversation in chosen if conversation.origin in out],
    }


def _row(tokenizer: TextTokenizer, conversation: Conversation) -> TokenRow:
    ids = np.array(tokenizer.chat(conversation.messages), dtype=np.int64)
    return TokenRow(
        tokens=ids,
        id=conversation.id,
        source=conversation.source,
        language=conversation.language,
        bytes=int(tokenizer.token_bytes[ids].sum()),
    )


def _write_table(attempt: Attempt, chosen: Sequence[Conversation]) -> None:
    table = pa.table(
        {
            "kind": [conversation.kind for conversation in chosen],
            "id": [conversation.id for conversation in chosen],
            "messages": [json.dumps(conversation.messages, ensure_ascii=False) for conversation in chosen],
        },
        schema=pa.schema([("kind", pa.string()), ("id", pa.string()), ("messages", pa.large_string())]),
    )
    with atomic_path(attempt.output / "pairs.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
