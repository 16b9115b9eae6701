"""Looking into token shards: documents with the boundaries of their tokens, and sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from illada.data.shards import TokenShards
from illada.data.tokenizer import SPECIAL_TOKENS, TextTokenizer
from illada.data.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDocument:
    """One row of a shard: int [tokens], special ones included; `bytes` is the UTF-8 size of its text."""

    tokens: NDArray[Any]
    id: str
    source: str
    language: str
    bytes: int


def token_documents(shards: TokenShards, wanted: Mapping[str, str]) -> Iterator[TokenDocument]:
    """The documents whose columns (id, source, language) have the wanted values, in the order of the shards."""
    for shard in range(len(shards)):
        batch = shards.batch(shard)
        keep = np.ones(batch.num_rows, dtype=bool)
        for name, value in wanted.items():
            keep &= pc.equal(batch.column(name), value).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(keep).tolist():
            ids = batch.column("input_ids")[row].values
            columns = {name: batch.column(name)[row].as_py() for name in ("id", "source", "language", "bytes")}
            yield TokenDocument(tokens=ids.to_numpy(), **columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenWindow:
    """A training window: int [length], the tokens from number `first` of a shard on.

    `documents` are those that it has tokens of, in order: id, source, language, and tokens in the window.
    """

    number: int
    shard: str
    first: int
    tokens: NDArray[Any]
    documents: list[dict[str, Any]]


def token_windows(shards: TokenShards, length: int, numbers: Sequence[int]) -> Iterator[TokenWindow]:
    """The training windows of these numbers, as `illada.data.windows` counts them. ValueError when there is none."""
    windows = Windows(shards, length)
    for number in numbers:
        if not 0 <= number < len(windows):
            raise ValueError(f"there is no window {number}: {shards.folder} has {len(windows):,} of {length} tokens")
        shard, first = windows.locate(number)
        batch, offsets = shards.batch(shard), shards.offsets(shard)
        start, end = np.searchsorted(offsets, [first, first + length - 1], side="right") - 1
        documents = []
        for row in range(start, end + 1):
            inside = int(min(offsets[row + 1], first + length) - max(offsets[row], first))
            if inside:
                columns = {name: batch.column(name)[row].as_py() for name in ("id", "source", "language")}
                documents.append({**columns, "tokens": inside})
        yield TokenWindow(
            number=number, shard=shards.shards[shard]["file"], first=first, tokens=windows[number], documents=documents
        )


def pieces(tokens: NDArray[Any], tokenizer: TextTokenizer) -> list[tuple[int, str]]:
    """Each token's id and text; special tokens by name, bytes that are no character of their own as \\xNN."""
    return [
        (token, SPECIAL_TOKENS[token] if token < len(SPECIAL_TOKENS) else _spelt(tokenizer.decode_bytes([token])))
        for token in tokens.tolist()
    ]


def summarise_shards(splits: Mapping[str, TokenShards], on_shard: Callable[[], None]) -> dict[str, Any]:
    """Documents, tokens, text bytes and bytes per token: in all, by split, source and language, and lengths in tokens.

    `lengths` is documents by the power of two that is the first above their tokens.
    """
    groups: dict[str, dict[str, Counter[str]]] = {"splits": {}, "sources": {}, "languages": {}}
    lengths: Counter[int] = Counter()
    for split, shards in splits.items():
        for shard in range(len(shards)):
            batch = shards.batch(shard)
            tokens = np.diff(shards.offsets(shard))
            lengths.update(np.frexp(tokens.astype(np.float64))[1].tolist())
            sizes = batch.column("bytes").to_numpy()
            for kind, keys in (
                ("splits", [split] * batch.num_rows),
                ("sources", batch.column("source").to_pylist()),
                ("languages", batch.column("language").to_pylist()),
            ):
                _add(groups[kind], keys, tokens, sizes)
            on_shard()
    total: Counter[str] = Counter()
    for counts in groups["splits"].values():
        total.update(counts)
    return {
        **_row(total),
        **{kind: {name: _row(counts) for name, counts in sorted(rows.items())} for kind, rows in groups.items()},
        "lengths": {str(2**power): count for power, count in sorted(lengths.items())},
    }


def _add(
    rows: dict[str, Counter[str]], keys: Sequence[str], tokens: NDArray[np.int32], sizes: NDArray[np.int64]
) -> None:
    names, inverse = np.unique(np.asarray(keys, dtype=object).astype(str), return_inverse=True)
    documents = np.bincount(inverse, minlength=len(names))
    sums = [np.bincount(inverse, weights=values, minlength=len(names)) for values in (tokens, sizes)]
    for index, name in enumerate(names.tolist()):
        counts = rows.setdefault(name, Counter())
        counts.update(documents=int(documents[index]), tokens=int(sums[0][index]), bytes=int(sums[1][index]))


def _row(counts: Counter[str]) -> dict[str, Any]:
    tokens = counts["tokens"]
    row = {name: counts[name] for name in ("documents", "tokens", "bytes")}
    return {**row, "bytes_per_token": round(counts["bytes"] / tokens, 4) if tokens else None}


def _spelt(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
