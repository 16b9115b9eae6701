"""Stage `tokenize`: documents become Arrow token shards, split into `train/` and `held_out/` by the hash of their ids.

Pieces of the input are tokenized by the actor pool, each into one file a split (resumable); the pieces are then joined,
in the order of the documents, into shards of the asked size. So neither pieces nor workers show in the output.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Tokenize
from illada.data.shards import ShardWriter, read_batch, token_dtype, write_batch
from illada.data.tokenizer import BOS_ID, EOS_ID, TextTokenizer
from pipelines.documents import DocumentFile, document_files, read_documents, row_groups
from pipelines.pool import Unit, run_units
from pipelines.rows import TokenRow, add_counts, count_by, rows_batch
from pipelines.sample import held_out
from pipelines.shared import fetch

TOKENIZE_VERSION = 1
SPLITS = ("train", "held_out")
_UNIT_GROUPS = 2  # Parquet row groups a unit
_ENCODED_TOGETHER = 64  # documents


def tokenize_documents(
    config: Tokenize,
    documents: Artifact,
    tokenizer: Artifact,
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
    *,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Output: the shard folders `train/` and `held_out/`; a document is BOS + tokens + EOS.

    What adds to a corpus `may_be_empty`: a split that gets no document then has no folder.

    Returns {"train": {"documents", "tokens", "bytes", "shards"}, "held_out": {same}, "languages": {name: {"documents",
    "tokens", "bytes"}}, "sources": {same}}.

    Raises:
        ValueError: one of the splits would be empty.
    """
    files = document_files(documents)
    groups = row_groups(files, attempt.work)
    units = [unit for number, file in enumerate(files) for unit in _units(number, file, groups[number])]
    factory = partial(_UnitTokenizer, tokenizer, config)
    results = run_units(units, factory, attempt.work / "units", placement, progress, "documents")
    counts = Counter[str]()
    for result in results:
        counts.update({split: result.statistics[split] for split in SPLITS})
    if not all(counts[split] for split in SPLITS) and not may_be_empty:
        raise ValueError(
            f"held_out {config.held_out} splits {sum(counts.values())} documents into {counts['train']} for training "
            f"and {counts['held_out']} held out; both need some: raise data.tokenize.held_out or add data"
        )
    vocab_size = TextTokenizer.load(tokenizer.local()).vocab_size
    progress.start(sum(counts.values()), "documents in shards")
    totals = {}
    for number, split in enumerate(SPLITS):
        if not counts[split]:
            totals[split] = dict.fromkeys(("documents", "tokens", "bytes", "shards"), 0)
            continue
        writer = ShardWriter(attempt.output / split, vocab_size=vocab_size, shard_tokens=config.shard_tokens)
        written = number * counts[SPLITS[0]]
        for result in results:
            writer.add(read_batch(result.path(f"{split}.arrow")))
            written += result.statistics[split]
            progress.update(written)
        totals[split] = writer.close()
    return {
        **totals,
        **{key: add_counts(result.statistics[key] for result in results) for key in ("languages", "sources")},
    }


class _UnitTokenizer:
    """Worker: tokenizes some row groups of a document file into one Arrow file a split."""

    def __init__(self, tokenizer: Artifact, config: Tokenize) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool's actors are the parallelism
        self._tokenizer = TextTokenizer.load(tokenizer.local())
        self._config = config

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Writes `train.arrow` and `held_out.arrow`; returns documents by split, and counts by language and source."""
        rows: dict[str, list[TokenRow]] = {split: [] for split in SPLITS}
        texts = read_documents(fetch(unit.payload["file"]), unit.payload["first"], unit.payload["count"])
        while documents := list(itertools.islice(texts, _ENCODED_TOGETHER)):
            encoded = self._tokenizer.encode_batch([document.text for document in documents])
            for document, ids in zip(documents, encoded, strict=True):
                row = TokenRow(
                    tokens=np.concatenate([[BOS_ID], ids, [EOS_ID]]),
                    id=document.id,
                    source=document.source,
                    language=document.language,
                    bytes=document.bytes,
                )
                out = held_out(document.id, self._config.held_out, self._config.seed)
                rows["held_out" if out else "train"].append(row)
        dtype = token_dtype(self._tokenizer.vocab_size)
        for split in SPLITS:
            write_batch(output / f"{split}.arrow", rows_batch(rows[split], dtype))
        everything = rows["train"] + rows["held_out"]
        return {
            **{split: len(rows[split]) for split in SPLITS},
            "languages": count_by(everything, lambda row: row.language),
            "sources": count_by(everything, lambda row: row.source),
        }


def _units(number: int, file: DocumentFile, groups: Sequence[int]) -> list[Unit]:
    units = []
    for first in range(0, len(groups), _UNIT_GROUPS):
        some = groups[first : first + _UNIT_GROUPS]
        payload = {"file": file.reference, "first": first, "count": len(some)}
        units.append(Unit(name=f"{number:06d}-{first:06d}", payload=payload, weight=sum(some)))
    return units
