"""Token shards: the Arrow files that are both a `datasets` dataset and the training format.

A folder holds `shard-*.arrow` (Arrow IPC stream, one record batch each, one row a document), `shards.json` (counts and
checksums, and the group of each shard whose documents are all of one source and language), and the two small JSON
files that make it a `datasets.load_from_disk` folder. Arrow keeps the column
`input_ids: list<uint16|uint32>` as offsets + flat values; the flat values are the shard's token stream, so a training
window is a slice of the memory map and the offsets are the document boundaries. Nothing is packed or copied again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, DTypeLike, NDArray

from illada.artifacts import ArtifactError, Folder, atomic_path, cache_bytes, fingerprint, sha256_file, write_json

INDEX = "shards.json"
MIXED = "mul"
"""Language of a group that holds several: those with too little text in a source to fill shards (ISO 639-2)."""
_INDEX_VERSION = 1
_MOST_TOKENS = 2**31 - 1  # Arrow's list offsets are int32
_OPEN_SHARDS = 4096  # memory maps kept open by one reader


class ShardError(ValueError):
    """A shard folder that cannot be read: missing, damaged, or not one of ours; names the file."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest stored type of ids below `vocab_size`: uint16 up to 65,536, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def shard_schema(dtype: DTypeLike) -> pa.Schema:
    """Columns of a shard; `bytes` is the UTF-8 size of the document's text."""
    return pa.schema(
        [
            pa.field("input_ids", pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))),
            pa.field("id", pa.string()),
            pa.field("source", pa.string()),
            pa.field("language", pa.string()),
            pa.field("bytes", pa.int64()),
        ]
    )


def document_batch(
    tokens: Sequence[ArrayLike],
    *,
    ids: Sequence[str],
    sources: Sequence[str],
    languages: Sequence[str],
    sizes: Sequence[int],
    dtype: DTypeLike,
) -> pa.RecordBatch:
    """Documents as a record batch of the shard schema, ready for `ShardWriter.add` or `write_batch`."""
    arrays = [np.asarray(row, dtype=dtype) for row in tokens]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in arrays], out=offsets[1:])
    flat = np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
    return pa.RecordBatch.from_arrays(
        [
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
            pa.array(ids, pa.string()),
            pa.array(sources, pa.string()),
            pa.array(languages, pa.string()),
            pa.array(sizes, pa.int64()),
        ],
        schema=shard_schema(dtype),
    )


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write one record batch as an Arrow IPC stream, atomically."""
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, batch.schema) as stream,
    ):
        stream.write_batch(batch)


def read_batch(path: Path) -> pa.RecordBatch:
    """The one record batch of a file by `write_batch`, memory-mapped. Raises ShardError naming a damaged file."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            batches = list(stream)
    except (OSError, pa.ArrowInvalid) as error:
        raise ShardError(f"{path}: cannot be read as a token shard ({' '.join(str(error).split())})") from None
    if len(batches) != 1 or "input_ids" not in batches[0].schema.names:
        raise ShardError(f"{path}: is not a token shard (one record batch with a column input_ids)")
    return batches[0]


class ShardWriter:
    """Writes documents, in the order given, into shards of about `shard_tokens` tokens in `folder`.

    A shard ends with the document that brings it to `shard_tokens`, so its content depends on the documents' order
    alone, not on how they were batched. Memory: one shard.
    """

    def __init__(self, folder: Path, *, vocab_size: int, shard_tokens: int) -> None:
        self._folder = folder
        self._schema = shard_schema(token_dtype(vocab_size))
        self._vocab_size = vocab_size
        self._shard_tokens = min(shard_tokens, _MOST_TOKENS)
        self._pending: list[pa.RecordBatch] = []
        self._tokens = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Append documents (schema of `shard_schema`). Raises ValueError for one longer than 2**31 - 1 tokens."""
        if batch.schema != self._schema:
            raise ValueError(f"documents with columns {batch.schema} do not fit shards with columns {self._schema}")
        start = 0
        for row, length in enumerate(np.diff(batch.column("input_ids").offsets.to_numpy()).tolist()):
            if self._tokens + length > _MOST_TOKENS:
                if length > _MOST_TOKENS:
                    raise ValueError(
                        f"document {batch.column('id')[row]}: {length} tokens, a shard holds {_MOST_TOKENS}"
                    )
                self._take(batch, start, row)
                self._flush()
                start = row
            self._tokens += length
            if self._tokens >= self._shard_tokens:
                self._take(batch, start, row + 1)
                self._flush()
                start = row + 1
        self._take(batch, start, batch.num_rows)

    def close(self, response_prefix: Sequence[int] | None = None) -> dict[str, int]:
        """Write the last shard and the index; returns {"documents", "tokens", "bytes" (of text), "shards"}.

        Of conversations `response_prefix` are the ids that every response follows.

        Raises:
            ValueError: no document was added.
        """
        if self._pending:
            self._flush()
        if not self._shards:
            raise ValueError(f"{self._folder}: no documents to write into token shards")
        return write_index(self._folder, self._vocab_size, self._shards, response_prefix)

    def _take(self, batch: pa.RecordBatch, start: int, stop: int) -> None:
        if stop > start:
            self._pending.append(batch.slice(start, stop - start))

    def _flush(self) -> None:
        batch = pa.concat_batches(self._pending)
        path = self._folder / f"shard-{len(self._shards):06d}.arrow"
        entry = write_shard(path, batch)
        self._shards.append({"file": path.name, **entry, "sha256": sha256_file(path)})
        self._pending, self._tokens = [], 0


def write_shard(path: Path, batch: pa.RecordBatch) -> dict[str, int]:
    """Write a shard, atomically; returns what its index says of it, but for its file and sha256."""
    write_batch(path, batch)
    return {
        "documents": batch.num_rows,
        "tokens": len(batch.column("input_ids").values),
        "text_bytes": int(np.sum(batch.column("bytes").to_numpy())),
        "bytes": path.stat().st_size,
    }


def write_index(
    folder: Path, vocab_size: int, shards: Sequence[Mapping[str, Any]], response_prefix: Sequence[int] | None = None
) -> dict[str, int]:
    """Make a folder one of token shards; the shards themselves are or will be there.

    Args:
        shards: of each, what `write_shard` returned with `file` and `sha256`; and `source` and `language` where all its
            documents have the same (`MIXED`: the same source only).
        response_prefix: see `ShardWriter.close`.

    Returns:
        {"documents", "tokens", "bytes" (of text), "shards"}.
    """
    index = {"index_version": _INDEX_VERSION, "vocab_size": vocab_size, "shards": list(shards)}
    write_json(folder / INDEX, index | ({"response_prefix": list(response_prefix)} if response_prefix else {}))
    _write_dataset_files(folder, shard_schema(token_dtype(vocab_size)), shards)
    totals = {key: sum(shard[key] for shard in shards) for key in ("documents", "tokens")}
    return {**totals, "bytes": sum(shard["text_bytes"] for shard in shards), "shards": len(shards)}


class TokenShards:
    """A folder of token shards, opened for reading: shards are memory-mapped when first touched.

    From an object store they are fetched into the node's cache then.
    """

    def __init__(self, folder: Path | Folder, index: dict[str, Any]) -> None:
        self.folder = folder
        self._location = Folder.at(folder)
        self.vocab_size = int(index["vocab_size"])
        self.shards: list[dict[str, Any]] = index["shards"]
        self.response_prefix: tuple[int, ...] = tuple(index.get("response_prefix", ()))
        self.counts: NDArray[np.int64] = np.array([shard["tokens"] for shard in self.shards], dtype=np.int64)
        self.fingerprint = fingerprint([self.vocab_size, [[s["tokens"], s["sha256"]] for s in self.shards]])
        self._lists = functools.lru_cache(maxsize=self._most_open())(self._read)

    @classmethod
    def open(cls, folder: Path | Folder) -> TokenShards:
        """Open a folder written by ShardWriter. Raises ShardError when its index is missing or unreadable."""
        path = f"{folder}/{INDEX}"
        try:
            index = Folder.at(folder).read_json(INDEX)
            version = index["index_version"]
            if version > _INDEX_VERSION:
                raise ShardError(f"{path}: written by a newer illada (index version {version}); upgrade to read it")
            return cls(folder, index)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ShardError(f"{path}: is not a readable index of token shards ({error})") from None

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of all shards."""
        return int(self.counts.sum())

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return sum(int(shard["documents"]) for shard in self.shards)

    def path(self, shard: int) -> Path:
        """The local file of a shard, fetched if need be. Raises ShardError when there is none."""
        entry = self.shards[shard]
        try:
            return self._location.fetch(entry["file"], entry["sha256"])
        except ArtifactError as error:
            raise ShardError(str(error)) from None
        except FileNotFoundError as error:
            raise ShardError(f"{self.folder}/{entry['file']}: cannot be read ({error.strerror})") from None

    def values(self, shard: int) -> NDArray[Any]:
        """The token stream of a shard: a read-only, zero-copy view of its memory map, uint16 or uint32."""
        return self._lists(shard)[0]

    def offsets(self, shard: int) -> NDArray[np.int32]:
        """Document boundaries in `values(shard)`, int32 [documents + 1], zero-copy."""
        return self._lists(shard)[1]

    def batch(self, shard: int) -> pa.RecordBatch:
        """A shard with all its columns, memory-mapped. Raises ShardError when it is not what the index says."""
        entry, path = self.shards[shard], self.path(shard)
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ShardError(f"{path}: {size} bytes, its index says {entry['bytes']}: the shard is damaged")
        batch = read_batch(path)
        lists = batch.column("input_ids")
        if batch.num_rows != entry["documents"] or len(lists.values) != entry["tokens"]:
            raise ShardError(f"{path}: its documents or tokens are not those of its index: the shard is damaged")
        return batch

    def _most_open(self) -> int:
        """A map keeps its file's bytes on the disk, even of a file that the cache has removed."""
        size = max((int(shard["bytes"]) for shard in self.shards), default=1)
        return (
            _OPEN_SHARDS if self._location.path is not None else max(1, min(_OPEN_SHARDS, cache_bytes() // 4 // size))
        )

    def _read(self, shard: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        lists = self.batch(shard).column("input_ids")
        values, offsets = lists.values.to_numpy(zero_copy_only=True), lists.offsets.to_numpy(zero_copy_only=True)
        if values.dtype != token_dtype(self.vocab_size) or offsets[0] != 0 or offsets[-1] != len(values):
            raise ShardError(f"{self.folder}/{self.shards[shard]['file']}: its token lists are damaged")
        return values, offsets


def _write_dataset_files(folder: Path, schema: pa.Schema, shards: Sequence[Mapping[str, Any]]) -> None:
    """What `datasets.load_from_disk` needs beside the Arrow files."""

    def value(kind: pa.DataType) -> dict[str, Any]:
        if pa.types.is_list(kind):
            return {"feature": value(kind.value_type), "_type": "List"}
        return {"dtype": str(kind), "_type": "Value"}

    write_json(folder / "dataset_info.json", {"features": {field.name: value(field.type) for field in schema}})
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard["file"]} for shard in shards],
        "_fingerprint": fingerprint([shard["sha256"] for shard in shards])[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)
