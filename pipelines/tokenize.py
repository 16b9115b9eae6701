"""Stage `tokenize`: documents become Arrow token shards, split into `train/` and `held_out/` by the hash of their ids.

Parts of the input are tokenized by the actor pool, each into one file a split; what they wrote is then joined by the
pool, a shard at a time, in the order of the documents (`pipelines.joining`). So neither parts nor workers show in the
output, and the driver touches no token.

Shards of `train/` have documents of one group each, a source and a language, so that a mixture can take each in its
own proportion. Shards of `held_out/` have all of them in the order of the input.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Tokenize
from illada.data.shards import token_dtype, write_index
from illada.data.tokenizer import BOS_ID, EOS_ID, TextTokenizer
from pipelines.documents import DocumentFile, document_files, read_documents, row_groups
from pipelines.joining import SHARD, Plan, ShardJoiner, plan_shards
from pipelines.pieces import Piece, write_pieces
from pipelines.pool import Results, Unit, run_units
from pipelines.rows import TokenRow, add_counts, count_by, rows_batch
from pipelines.sample import held_out
from pipelines.shared import fetch, share_array

TOKENIZE_VERSION = 2
SPLITS = ("train", "held_out")
_UNIT_GROUPS = 2  # Parquet row groups a unit
_ENCODED_TOGETHER = 64  # documents
_LEAST_OF_SHARD = 256  # of a shard's tokens, the part that a language needs to have shards of its own


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
    return {
        **_join(config, results, vocab_size, attempt, placement, progress),
        **{key: add_counts(result.statistics[key] for result in results) for key in ("languages", "sources")},
    }


def _join(
    config: Tokenize,
    tokenized: Results,
    vocab_size: int,
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
) -> dict[str, dict[str, int]]:
    """Make shards of what the units wrote; returns what each split has."""
    plans: dict[str, Plan] = {}
    for split in SPLITS:
        written = ((result.folder.name, _pieces(result.statistics, split)) for result in tokenized)
        plans[split] = plan_shards(split, written, config.shard_tokens, config.shard_tokens // _LEAST_OF_SHARD)
    tables = {
        split: share_array(plan.pieces, f"pieces-{split}", attempt.scratch, attempt.work)
        for split, plan in plans.items()
    }
    units = [unit for plan in plans.values() for unit in plan.units]
    factory = partial(ShardJoiner, attempt.work / "units", tables, vocab_size)
    joined = iter(run_units(units, factory, attempt.work / "shards", placement, progress, "tokens in shards"))
    totals = {}
    for split, plan in plans.items():
        shards: list[dict[str, Any]] = []
        for (source, language), result in zip(plan.groups, joined, strict=False):
            if result.statistics["entry"] is None:
                continue  # a document longer than a shard goes over all of it
            file = f"shard-{len(shards):06d}.arrow"
            result.adopt(SHARD, attempt, f"{split}/{file}")
            group = {"source": source, "language": language} if source else {}
            shards.append({"file": file, **result.statistics["entry"], "sha256": result.files[SHARD], **group})
        empty = dict.fromkeys(("documents", "tokens", "bytes", "shards"), 0)
        totals[split] = write_index(attempt.output / split, vocab_size, shards) if shards else empty
    return totals


def _pieces(statistics: Mapping[str, Any], split: str) -> Iterable[Piece]:
    return (Piece(**piece) for piece in statistics["pieces"][split])


class _UnitTokenizer:
    """Worker: tokenizes some row groups of a document file into one Arrow file a split."""

    def __init__(self, tokenizer: Artifact, config: Tokenize) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool's actors are the parallelism
        self._tokenizer = TextTokenizer.load(tokenizer.local())
        self._config = config

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Writes `train.arrow` and `held_out.arrow`.

        Returns documents and pieces (`pipelines.pieces`) by split, and counts by language and source.
        """
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
        pieces = {
            split: write_pieces(
                output / f"{split}.arrow",
                ((*group, rows_batch(some, dtype)) for group, some in _grouped(split, rows[split])),
            )
            for split in SPLITS
        }
        everything = rows["train"] + rows["held_out"]
        return {
            **{split: len(rows[split]) for split in SPLITS},
            "pieces": {split: [piece.to_json() for piece in some] for split, some in pieces.items()},
            "languages": count_by(everything, lambda row: row.language),
            "sources": count_by(everything, lambda row: row.source),
        }


def _grouped(split: str, rows: Sequence[TokenRow]) -> list[tuple[tuple[str, str], list[TokenRow]]]:
    """What is to be a piece: of training data a source and a language each, of held-out data everything."""
    groups: dict[tuple[str, str], list[TokenRow]] = {}
    for row in rows:
        groups.setdefault((row.source, row.language) if split == "train" else ("", ""), []).append(row)
    return sorted(groups.items(), key=lambda item: item[0])


def _units(number: int, file: DocumentFile, groups: Sequence[int]) -> list[Unit]:
    units = []
    for first in range(0, len(groups), _UNIT_GROUPS):
        some = groups[first : first + _UNIT_GROUPS]
        payload = {"file": file.reference, "first": first, "count": len(some)}
        units.append(Unit(name=f"{number:06d}-{first:06d}", payload=payload, weight=sum(some)))
    return units
