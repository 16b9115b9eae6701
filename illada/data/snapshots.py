"""Snapshots of a corpus: what a pretraining run names, made of small files that refer to the shards of many refreshes.

A snapshot is an artifact of three files. `shards.parquet` has a row for every token shard, first those of the snapshot
before, then the new ones; the shards stay where their `tokenize` artifact has them. `sources.parquet` has a row for
every source file ever taken. `snapshot.json` has the rest: number, snapshot before, tokenizer, the artifacts that this
refresh built, and totals. Snapshots never change, and an old one stays valid when a newer one is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from illada.artifacts import Artifact, ArtifactError, Attempt, Folder, Store, atomic_path, write_json
from illada.data.shards import INDEX, ShardError, TokenShards

SNAPSHOT_VERSION = 2
STAGE = "snapshot"
SPLITS = ("train", "held_out")
_STAGES = ("curate", "quality-model", "quality", "deduplicate", "decontaminate-documents", "tokenizer", "tokenize")
_DOCUMENTS = ("decontaminate-documents", "deduplicate")  # the first of them that there is was tokenized
_LEARNED = ("quality-model", "tokenizer")  # by the corpus's first refresh, for all that follow
_VALUE, _SHARDS, _SOURCES = "snapshot.json", "shards.parquet", "sources.parquet"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A source file that a snapshot took. `version` is what its server said of its content; empty for a local file."""

    source: str
    name: str
    bytes: int
    sha256: str
    version: str
    licence: str
    snapshot: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A published or unpublished snapshot; `value` is its snapshot.json."""

    store: Store
    artifact: Artifact
    value: Mapping[str, Any]

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return str(self.value["corpus"])

    @property
    def number(self) -> int:
        """Counted from 1."""
        return int(self.value["number"])

    @property
    def fingerprint(self) -> str:
        """Of its artifact."""
        return self.artifact.fingerprint

    @property
    def label(self) -> str:
        """As people name it: corpus@number."""
        return f"{self.corpus}@{self.number}"

    @property
    def totals(self) -> Mapping[str, Any]:
        """{"train": {"documents", "tokens", "bytes", "shards"}, "held_out": {same}, "languages": {...}, "sources"}."""
        totals: Mapping[str, Any] = self.value["totals"]
        return totals

    def built(self, stage: str) -> Artifact:
        """The artifact of one of this refresh's stages, or of what the first refresh learned."""
        return self.store.open(stage, self.value["tokenizer"] if stage == "tokenizer" else self.value["built"][stage])

    def artifacts(self) -> list[Artifact]:
        """What its refresh built, each after its inputs, the snapshot last; what is learned is the first refresh's."""
        acquired = [self.store.open(f"acquire-{name}", digest) for name, digest in self.value["acquired"].items()]
        made = [stage for stage in _STAGES if stage in self.value["built"]]
        if self.value["previous"] is not None:
            made = [stage for stage in made if stage not in _LEARNED]
        return [*acquired, *(self.built(stage) for stage in made), self.artifact]

    def documents(self) -> Artifact:
        """The documents whose tokens its refresh added."""
        return self.built(next(stage for stage in _DOCUMENTS if stage in self.value["built"]))

    def previous(self) -> Snapshot | None:
        """The snapshot it was made from."""
        before = self.value["previous"]
        return None if before is None else read_snapshot(self.store, self.store.open(STAGE, before))

    def history(self) -> list[Snapshot]:
        """All snapshots from the corpus's first to this one."""
        line = [self]
        while (before := line[-1].previous()) is not None:
            line.append(before)
        return line[::-1]

    def table(self) -> pa.Table:
        """A row a shard: split, artifact (of stage `tokenize`), file, documents, tokens, text_bytes, bytes, sha256.

        And source and language, null of a shard that has several sources.
        """
        return pq.read_table(self.artifact.path(_SHARDS))

    def sources(self) -> list[SourceFile]:
        """Every source file of the corpus, in the order they were taken."""
        return [SourceFile(**row) for row in pq.read_table(self.artifact.path(_SOURCES)).to_pylist()]

    def shards(self, split: str) -> TokenShards:
        """The token shards of a split, memory-mapped when first touched."""
        return SnapshotShards(self, split)

    def part(self, split: str) -> SnapshotSplit:
        """A split, to be opened by another process."""
        return SnapshotSplit(store=self.store.root.url, fingerprint=self.fingerprint, split=split, label=self.label)

    def unlike(self, fixed: Mapping[str, Any]) -> str:
        """In which keys a refresh's fixed configuration differs from the corpus's, in words; empty when in none."""
        mine = self.value["fixed"]
        found = [
            f"{section}.{key} is {mine.get(section, {}).get(key)!r} there, {values.get(key)!r} here"
            for section, values in fixed.items()
            for key in dict.fromkeys([*values, *mine.get(section, {})])
            if mine.get(section, {}).get(key) != values.get(key)
        ]
        return "; ".join(found)


class SnapshotShards(TokenShards):
    """Shards that lie in the artifacts of several refreshes."""

    def __init__(self, snapshot: Snapshot, split: str) -> None:
        rows = snapshot.table()
        shards = rows.filter(pc.equal(rows["split"], split)).drop_columns("split").to_pylist()
        super().__init__(snapshot.artifact.location, {"vocab_size": snapshot.value["vocab_size"], "shards": shards})
        self._store = snapshot.store
        self._artifacts: dict[str, Artifact] = {}

    def path(self, shard: int) -> Path:
        """The local file of a shard, fetched if need be. Raises ShardError when there is none."""
        entry = self.shards[shard]
        name = entry["artifact"]
        try:
            if name not in self._artifacts:
                self._artifacts[name] = self._store.open("tokenize", name)
            path = self._artifacts[name].path(entry["file"])
        except ArtifactError as error:
            raise ShardError(str(error)) from None
        if not path.exists():
            raise ShardError(f"{path}: is missing")
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSplit:
    """A split of a snapshot, as other processes are told of it."""

    store: str
    fingerprint: str
    split: str
    label: str

    def open(self) -> TokenShards:
        """Its token shards."""
        store = Store(self.store)
        return read_snapshot(store, store.open(STAGE, self.fingerprint)).shards(self.split)

    def __str__(self) -> str:
        return f"{self.split} of {self.label}"


ShardSource = Folder | SnapshotSplit
"""Where token shards are: a folder that `ShardWriter` wrote, or a split of a snapshot."""


def shards_of(tokens: Artifact, split: str) -> ShardSource:
    """Where a split of an artifact of stage `tokenize`, `pairs` or `snapshot` is."""
    if tokens.stage != STAGE:
        return tokens.location / split
    store = Store(tokens.root.url.rsplit("/", 2)[0])  # the artifact is <store>/<stage>/<fingerprint>
    return read_snapshot(store, tokens).part(split)


def open_shards(source: Path | ShardSource) -> TokenShards:
    """The token shards of a source. Raises ShardError or ArtifactError when they cannot be opened."""
    return source.open() if isinstance(source, SnapshotSplit) else TokenShards.open(source)


def read_snapshot(store: Store, artifact: Artifact) -> Snapshot:
    """The snapshot in an artifact. Raises ArtifactError for one that is none, or of a newer version."""
    if artifact.stage != STAGE:
        raise ArtifactError(f"artifact {artifact.stage}/{artifact.fingerprint[:12]} is not a snapshot")
    value = json.loads(artifact.path(_VALUE).read_text(encoding="utf-8"))
    if value["format"] > _FORMAT:
        raise ArtifactError(f"snapshot {artifact.fingerprint[:12]} was written by a newer illada; upgrade to read it")
    return Snapshot(store=store, artifact=artifact, value=value)


def build_snapshot(
    store: Store,
    corpus: str,
    fixed: Mapping[str, Any],
    previous: Snapshot | None,
    acquired: Mapping[str, Artifact],
    built: Mapping[str, Artifact],
    attempt: Attempt,
) -> dict[str, Any]:
    """Write the snapshot after `previous`: what `acquired` sources and the artifacts `built` from them add.

    Args:
        fixed: configuration that all snapshots of the corpus share.
        acquired: acquisitions by source.
        built: artifacts of this refresh by stage; `deduplicate`, `tokenizer` and `tokenize` at least.

    Returns:
        The totals, and under "added" the same of this refresh alone.
    """
    number = 1 if previous is None else previous.number + 1
    tokens = built["tokenize"]
    rows, vocab_size = [], None
    for split in SPLITS:
        if f"{split}/{INDEX}" in tokens.names:
            index = json.loads(tokens.path(f"{split}/{INDEX}").read_text(encoding="utf-8"))
            vocab_size = index["vocab_size"]
            for shard in index["shards"]:
                rows.append(
                    {**shard, "split": split, "artifact": tokens.fingerprint, "file": f"{split}/{shard['file']}"}
                )
    if previous is not None:
        vocab_size = previous.value["vocab_size"]
    shards = pa.Table.from_pylist(rows, schema=_SHARD_SCHEMA)
    files = [row for artifact in acquired.values() for row in _source_rows(artifact, number)]
    sources = pa.Table.from_pylist(files, schema=_SOURCE_SCHEMA)
    if previous is not None:
        shards = pa.concat_tables([previous.table(), shards], promote_options="default")
        sources = pa.concat_tables([pq.read_table(previous.artifact.path(_SOURCES)), sources])
    for name, table in ((_SHARDS, shards), (_SOURCES, sources)):
        with atomic_path(attempt.output / name) as path:
            pq.write_table(table, path, compression="zstd", use_dictionary=_REPEATED if name == _SHARDS else True)
    added = {key: tokens.statistics[key] for key in (*SPLITS, "languages", "sources")}
    totals = added if previous is None else add_totals(previous.totals, added)
    value = {
        "format": _FORMAT,
        "corpus": corpus,
        "number": number,
        "previous": None if previous is None else previous.fingerprint,
        "tokenizer": built["tokenizer"].fingerprint,
        "vocab_size": vocab_size,
        "fixed": fixed,
        "acquired": {name: artifact.fingerprint for name, artifact in acquired.items()},
        "built": {stage: artifact.fingerprint for stage, artifact in built.items()},
        "source_files": sources.num_rows,
        "totals": totals,
    }
    write_json(attempt.output / _VALUE, value)
    return {**totals, "added": added, "source_files": sources.num_rows}


def add_totals(one: Mapping[str, Any], other: Mapping[str, Any], sign: int = 1) -> dict[str, Any]:
    """Totals of two snapshots together, or (with sign -1) what one has more than the other."""

    def add(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
        return {key: a.get(key, 0) + sign * b.get(key, 0) for key in sorted({*a, *b})}

    groups = {
        group: {
            name: add(one[group].get(name, {}), other[group].get(name, {}))
            for name in sorted({*one[group], *other[group]})
        }
        for group in ("languages", "sources")
    }
    return {**{split: add(one[split], other[split]) for split in SPLITS}, **groups}


_REPEATED = ["split", "artifact", "source", "language"]
_SHARD_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("split", "artifact", "file")),
        *((name, pa.int64()) for name in ("documents", "tokens", "text_bytes", "bytes")),
        *((name, pa.string()) for name in ("sha256", "source", "language")),
    ]
)
_SOURCE_SCHEMA = pa.schema(
    [(field.name, pa.int64() if field.type == "int" else pa.string()) for field in fields(SourceFile)]
)


def _source_rows(acquired: Artifact, number: int) -> list[dict[str, Any]]:
    inventory = json.loads(acquired.path("inventory.json").read_text(encoding="utf-8"))
    return [
        {
            "source": inventory["source"],
            "name": origin["name"],
            "bytes": file["bytes"],
            "sha256": file["sha256"],
            "version": origin.get("version", ""),
            "licence": inventory["licence"],
            "snapshot": number,
        }
        for file in inventory["files"]
        for origin in file["made_from"]
    ]
