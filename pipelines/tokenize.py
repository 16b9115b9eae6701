"""Stage `tokenize`: documents become Arrow token shards, split into `train/` and `held_out/` by the hash of their ids.

Parts of the input are tokenized by the actor pool, each into one file a split; what they wrote is then joined by the
pool, a shard at a time, in the order of the documents (`pipelines.joining`). So neither parts nor workers show in the
output, and the driver touches no token.

Shards of `train/` have documents of one group each, a source and a language, so that a mixture can take each in its
own proportion. Shards of `held_out/` have all of them in the order of the input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Tokenize
from illada.data.encoder import FastEncoder, ReferenceEncoder
from illada.data.shards import write_index
from illada.data.tokenizer import TextTokenizer
from pipelines.documents import DocumentFile, document_files, row_groups
from pipelines.encoding import SPLITS, UnitTokenizer, trial
from pipelines.joining import SHARD, Plan, ShardJoiner, plan_shards
from pipelines.pieces import Piece
from pipelines.pool import Results, Unit, run_units
from pipelines.rows import add_counts
from pipelines.shared import share_array

TOKENIZE_VERSION = 3
_UNIT_GROUPS = 8  # Parquet row groups a unit
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
    "tokens", "bytes"}}, "sources": {same}, "encoder": {"name", "checked": texts, "mismatch": why the fast one is not
    used, or None}}.

    Raises:
        ValueError: one of the splits would be empty.
        AssertionError: documents or tokens are unaccounted for.
    """
    files = document_files(documents)
    groups = row_groups(files, attempt.work)
    units = [unit for number, file in enumerate(files) for unit in _units(number, file, groups[number])]
    encoder, folder, results = _tokenized(config, tokenizer, files, units, attempt, placement, progress)
    counts = Counter[str]()
    for result in results:
        counts.update({split: result.statistics[split] for split in SPLITS})
    if not all(counts[split] for split in SPLITS) and not may_be_empty:
        raise ValueError(
            f"held_out {config.held_out} splits {sum(counts.values())} documents into {counts['train']} for training "
            f"and {counts['held_out']} held out; both need some: raise data.tokenize.held_out or add data"
        )
    vocab_size = TextTokenizer.load(tokenizer.local()).vocab_size
    joined = _join(config, results, folder, vocab_size, attempt, placement, progress)
    _account(sum(map(sum, groups)), counts, results, joined)
    return {
        **joined,
        **{key: add_counts(result.statistics[key] for result in results) for key in ("languages", "sources")},
        "encoder": encoder,
    }


def _tokenized(
    config: Tokenize,
    tokenizer: Artifact,
    files: Sequence[DocumentFile],
    units: Sequence[Unit],
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
) -> tuple[dict[str, Any], str, Results]:
    """(which encoder, the name of the folder in which units wrote, what they returned).

    Where the fast encoder differs from the reference once, in whatever unit, the reference does all of them again.
    """
    progress.start(None, "trial of the encoder")
    checked, mismatch = trial(tokenizer, files)
    if mismatch is None:
        factory = partial(UnitTokenizer, tokenizer, config, fast=True)
        results = run_units(units, factory, attempt.work / "units", placement, progress, "documents")
        checked += sum(result.statistics["checked"] for result in results)
        mismatch = next((result.statistics["mismatch"] for result in results if result.statistics["mismatch"]), None)
        if mismatch is None:
            return {"name": FastEncoder.name, "checked": checked, "mismatch": None}, "units", results
    factory = partial(UnitTokenizer, tokenizer, config, fast=False)
    results = run_units(units, factory, attempt.work / "units-reference", placement, progress, "documents")
    return {"name": ReferenceEncoder.name, "checked": checked, "mismatch": mismatch}, "units-reference", results


def _join(
    config: Tokenize,
    tokenized: Results,
    written_in: str,
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
    factory = partial(ShardJoiner, attempt.work / written_in, tables, vocab_size)
    joined = iter(
        run_units(units, factory, attempt.work / f"shards-of-{written_in}", placement, progress, "tokens in shards")
    )
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


def _account(
    read: int, tokenized: Mapping[str, int], results: Results, joined: Mapping[str, Mapping[str, int]]
) -> None:
    """Raise AssertionError unless each document of the input is in a shard, with all its tokens: none is dropped."""
    if read != sum(tokenized.values()):
        raise AssertionError(f"stage tokenize read {read} documents but tokenized {sum(tokenized.values())}")
    for split in SPLITS:
        tokens = sum(piece["tokens"] for result in results for piece in result.statistics["pieces"][split])
        if (joined[split]["documents"], joined[split]["tokens"]) != (tokenized[split], tokens):
            raise AssertionError(
                f"stage tokenize made {tokenized[split]} documents of {tokens} tokens for {split}, but its shards have "
                f"{joined[split]['documents']} of {joined[split]['tokens']}"
            )


def _pieces(statistics: Mapping[str, Any], split: str) -> list[Piece]:
    return [Piece(**piece) for piece in statistics["pieces"][split]]


def _units(number: int, file: DocumentFile, groups: Sequence[int]) -> list[Unit]:
    units = []
    for first in range(0, len(groups), _UNIT_GROUPS):
        some = groups[first : first + _UNIT_GROUPS]
        payload = {"file": file.reference, "first": first, "count": len(some)}
        units.append(Unit(name=f"{number:06d}-{first:06d}", payload=payload, weight=sum(some)))
    return units
