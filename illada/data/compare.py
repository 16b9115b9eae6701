"""Snapshots told apart, and checked, by what is written about their shards: no shard is read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from illada.artifacts import ArtifactError
from illada.data.snapshots import SPLITS, Snapshot, SourceFile, add_totals


def diff(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """What `new` has that `old` has not, and the other way round.

    Returns:
        {"from", "to": labels, "shards": {"added", "removed", "same"}, "tokenizer_equal", "source_files": {"added",
        "removed": [{source, name, bytes, sha256, ...}]}} and, as differences (of `new` from `old`) of documents, tokens
        and bytes: "train", "held_out", "languages", "sources".
    """
    before, after = (set(snapshot.table()["sha256"].to_pylist()) for snapshot in (old, new))
    files, later = (_files(snapshot) for snapshot in (old, new))
    return {
        "from": old.label,
        "to": new.label,
        "shards": {"added": len(after - before), "removed": len(before - after), "same": len(before & after)},
        "tokenizer_equal": old.value["tokenizer"] == new.value["tokenizer"],
        **add_totals(new.totals, old.totals, sign=-1),
        "source_files": {
            "added": [as_row(file) for key, file in later.items() if key not in files],
            "removed": [as_row(file) for key, file in files.items() if key not in later],
        },
    }


def check(snapshot: Snapshot) -> dict[str, int]:
    """Check that every shard is a file of a published artifact, of the size and checksum that its record has too.

    Returns {"shards", "artifacts", "tokens", "bytes"}.

    Raises:
        ArtifactError: an artifact or file is missing, differs, or the totals are not the sums of the shards.
    """
    table = snapshot.table()
    rows = table.select(["artifact", "file", "bytes", "sha256"]).to_pylist()
    records: dict[str, dict[str, tuple[int, str]]] = {}
    for row in rows:
        name = row["artifact"]
        if name not in records:
            record = snapshot.store.open("tokenize", name).record
            records[name] = {file["name"]: (file["bytes"], file["sha256"]) for file in record["files"]}
        found = records[name].get(row["file"])
        if found != (row["bytes"], row["sha256"]):
            raise ArtifactError(
                f"snapshot {snapshot.label}: {row['file']} of tokenize/{name[:12]} has {row['bytes']} bytes and sha256 "
                f"{row['sha256']}, its artifact's record says {'no such file' if found is None else found}"
            )
    for split in SPLITS:
        _check_totals(snapshot, split, table.filter(pc.equal(table["split"], split)))
    snapshot.built("tokenizer")
    return {
        "shards": len(rows),
        "artifacts": len(records),
        "tokens": sum(snapshot.totals[split]["tokens"] for split in SPLITS),
        "bytes": pc.sum(table["bytes"]).as_py() or 0,
    }


def as_row(file: SourceFile) -> dict[str, Any]:
    """A source file as plain JSON."""
    return {name: getattr(file, name) for name in SourceFile.__slots__}


def _files(snapshot: Snapshot) -> dict[tuple[str, str, str], SourceFile]:
    return {(file.source, file.name, file.sha256): file for file in snapshot.sources()}


def _check_totals(snapshot: Snapshot, split: str, rows: pa.Table) -> None:
    totals = snapshot.totals[split]
    sums = {"shards": rows.num_rows}
    sums |= {key: pc.sum(rows[column]).as_py() or 0 for key, column in _COLUMNS.items()}
    if totals != sums:
        raise ArtifactError(f"snapshot {snapshot.label}: {split} has {totals}, its shards sum up to {sums}")


_COLUMNS = {"documents": "documents", "tokens": "tokens", "bytes": "text_bytes"}
