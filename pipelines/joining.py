"""Pieces of tokenized documents become shards, each of one group, by units that know which pieces they need.

A group is a source and a language. Its documents follow one another as those of the input do (of a group that holds
several languages, language by language) and make one stream of T tokens, which is cut into n = ceil(T / shard_tokens)
shards: a document is in shard floor(n s / T), where s is the place of its first token. So shards depend on the
documents alone, a group's are about equally long, and of G groups there are fewer than (all tokens) / shard_tokens + G.
What training cannot use is a tail shorter than a window in each shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from illada.artifacts import Folder, fingerprint
from illada.data.shards import MIXED, shard_schema, token_dtype, write_shard
from pipelines.pieces import Piece, read_piece
from pipelines.pool import Unit
from pipelines.shared import Reference, load_array

SHARD = "shard.arrow"
_MOST_TOKENS = 2**30  # of a shard, without the rest of its last document: Arrow's list offsets are int32
_PIECE = np.dtype(
    [("folder", "S64"), ("at", np.int64), ("size", np.int64), ("sha256", "S64"), ("start", np.int64), ("end", np.int64)]
)
"""A row of the plan: where a piece is, and the places of its first and after its last token in its group's stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which pieces the shards of a split are made of.

    Attributes:
        pieces: in the order of the groups' streams, dtype `_PIECE`.
        units: one a shard, in the order of the shards.
        groups: (source, language) of each of the units' shards.
    """

    pieces: NDArray[Any]
    units: Sequence[Unit]
    groups: Sequence[tuple[str, str]]


def group_names(tokens: Mapping[tuple[str, str], int], least: int) -> dict[tuple[str, str], tuple[str, str]]:
    """The group of each (source, language): itself, or for several with less than `least` tokens one of the source."""
    small = Counter(source for (source, _), count in tokens.items() if count < least)
    return {
        (source, language): (source, MIXED) if count < least and small[source] > 1 else (source, language)
        for (source, language), count in tokens.items()
    }


def plan_shards(split: str, written: Iterable[tuple[str, Sequence[Piece]]], shard_tokens: int, least: int) -> Plan:
    """Plan the shards of a split.

    Args:
        written: for each unit of tokenization, in the documents' order, its folder's name and its pieces of the split.
        shard_tokens: about the most tokens of a shard.
        least: fewest tokens with which a language of a source has shards of its own.
    """
    numbers: dict[tuple[str, str], int] = {}
    rows: list[tuple[Any, ...]] = []
    owners: list[int] = []
    for folder, pieces in written:
        for piece in pieces:
            owners.append(numbers.setdefault((piece.source, piece.language), len(numbers)))
            rows.append((folder.encode(), piece.at, piece.size, piece.sha256.encode(), 0, piece.tokens))
    table, owner = np.array(rows, dtype=_PIECE), np.array(owners, dtype=np.int64)
    tokens = np.zeros(len(numbers), dtype=np.int64)
    np.add.at(tokens, owner, table["end"])
    names = group_names({key: int(tokens[number]) for key, number in numbers.items()}, least)

    in_order = sorted(numbers, key=lambda key: (names[key], key))
    groups = list(dict.fromkeys(names[key] for key in in_order))
    place = np.empty(len(numbers), dtype=np.int64)
    place[[numbers[key] for key in in_order]] = np.arange(len(numbers))
    order = np.argsort(place[owner], kind="stable")
    table = table[order]
    group = np.array([groups.index(names[key]) for key in in_order], dtype=np.int64)[place[owner[order]]]
    bounds = np.searchsorted(group, np.arange(len(groups) + 1)).tolist()

    units: list[Unit] = []
    of: list[tuple[str, str]] = []
    for name, first, last in zip(groups, bounds[:-1], bounds[1:], strict=True):
        part = table[first:last]
        part["end"] = np.cumsum(part["end"])
        part["start"][1:] = part["end"][:-1]
        units += _group_units(split, first, part, shard_tokens, len(units))
        of += [name] * (len(units) - len(of))
    return Plan(pieces=table, units=units, groups=of)


def _group_units(split: str, first: int, pieces: NDArray[Any], shard_tokens: int, number: int) -> Iterator[Unit]:
    """The shards of a group whose pieces begin at row `first` of the plan."""
    total = int(pieces["end"][-1])
    count = -(-total // min(shard_tokens, _MOST_TOKENS))
    edges = [-(-part * total // count) for part in range(count + 1)]
    begins = np.searchsorted(pieces["end"], edges[:-1], side="right")
    ends = np.searchsorted(pieces["start"], edges[1:], side="left")
    for shard, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        payload = {
            "split": split,
            "first": first + begin,
            "last": first + end,
            "begin": edges[shard],
            "end": edges[shard + 1],
            "content": fingerprint([digest.decode() for digest in pieces["sha256"][begin:end].tolist()]),
        }
        yield Unit(name=f"{split}-{number + shard:06d}", payload=payload, weight=edges[shard + 1] - edges[shard])


class ShardJoiner:
    """Worker: writes one shard. Memory: the shard and one piece.

    Args:
        work: the folder of the units that wrote the pieces.
        plans: the tables of pieces by split.
    """

    def __init__(self, work: Folder, plans: Mapping[str, Reference], vocab_size: int) -> None:
        self._work = work
        self._pieces = {split: load_array(plan) for split, plan in plans.items()}
        self._dtype = token_dtype(vocab_size)

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Writes `shard.arrow`; returns its entry in the index. Nothing of both where no document begins in it."""
        payload = unit.payload
        pieces = self._pieces[payload["split"]][payload["first"] : payload["last"]]
        batch = self._joined(payload["split"], pieces, payload["begin"], payload["end"])
        return {"entry": write_shard(output / SHARD, batch) if batch.num_rows else None}

    def _joined(self, split: str, pieces: NDArray[Any], begin: int, end: int) -> pa.RecordBatch:
        """The documents whose first token has a place from `begin` on and before `end`."""
        values = np.empty(int((pieces["end"] - pieces["start"]).sum()), dtype=self._dtype)  # no page is used untouched
        schema = shard_schema(self._dtype)
        lengths, others, used = [np.empty(0, dtype=np.int32)], [schema.empty_table().select(schema.names[1:])], 0
        for piece in pieces:
            folder = self._work / piece["folder"].decode()
            name, digest = f"{split}.arrow", piece["sha256"].decode()
            batch = read_piece(folder, name, int(piece["at"]), int(piece["size"]), digest)
            lists = batch.column("input_ids")
            offsets = lists.offsets.to_numpy()
            first, last = np.searchsorted(piece["start"] + offsets[:-1], [begin, end]).tolist()
            chosen = lists.values.to_numpy()[offsets[first] : offsets[last]]
            values[used : used + len(chosen)] = chosen
            used += len(chosen)
            lengths.append(np.diff(offsets[first : last + 1]))
            others.append(pa.Table.from_batches([batch.slice(first, last - first).select(schema.names[1:])]))
        if used > np.iinfo(np.int32).max:
            raise ValueError(f"a document of {max(map(np.max, lengths))} tokens is more than a shard can hold")
        ends = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
        columns = pa.concat_tables(others)
        return pa.RecordBatch.from_arrays(
            [
                pa.ListArray.from_arrays(pa.array(ends), pa.array(values[:used])),
                # copied even when it is one part of a piece: of that, some bytes after its end would be written
                *(pa.concat_arrays(columns.column(name).chunks) for name in schema.names[1:]),
            ],
            schema=schema,
        )
