"""How long a snapshot of 45,000 shards (12T tokens) takes to open, compare and check by its metadata.

The shards are described and not there: nothing of this reads a token.

python benchmarks/snapshots.py --refreshes 30 --shards 1500
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from illada.artifacts import Artifact, Attempt, StageIdentity, Store
from illada.config import Deduplicate, Tokenize, Tokenizer
from illada.data.compare import check, diff
from illada.data.corpora import open_snapshot, publish
from illada.data.snapshots import SNAPSHOT_VERSION, STAGE, Snapshot, build_snapshot, read_snapshot
from illada.data.windows import Windows

SHARD_TOKENS = 2**28
FIXED = {
    "deduplicate": Deduplicate().fixed(),
    "tokenizer": Tokenizer(vocab_size=100_000).identity(),
    "tokenize": Tokenize().identity(),
}


def main() -> None:
    """Print seconds and sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refreshes", type=int, default=30)
    parser.add_argument("--shards", type=int, default=1500, help="of a refresh")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        describe_corpus(store, arguments.refreshes, arguments.shards)
        first, last = (open_snapshot(store, "web", number) for number in (1, arguments.refreshes))
        seconds = {
            "open": _timed(lambda: Windows(open_snapshot(store, "web", arguments.refreshes).shards("train"), 4096)),
            "diff": _timed(lambda: diff(first, last)),
            "verify": _timed(lambda: check(last)),
        }
        figures = {
            "shards": last.table().num_rows,
            "tokens": last.totals["train"]["tokens"],
            "bytes": sum(file["bytes"] for file in last.artifact.record["files"]),
            "seconds": seconds,
        }
    print(json.dumps(figures, indent=1))


def describe_corpus(store: Store, refreshes: int, shards: int) -> list[Snapshot]:
    """Snapshots of a corpus that grows by `shards` each time, whose shards exist by name only."""
    snapshots: list[Snapshot] = []
    previous, tokenizer = None, _artifact(store, "tokenizer", 0, lambda attempt: {})
    random = np.random.default_rng(0)
    for number in range(1, refreshes + 1):
        tokens = _tokens(store, number, shards, random)
        source = _artifact(store, "acquire-web", number, _inventory(number))
        built = {"tokenize": tokens, "deduplicate": tokens, "tokenizer": tokenizer}
        identity = StageIdentity(
            stage=STAGE, version=SNAPSHOT_VERSION, config={"number": number}, inputs={"tokens": tokens.fingerprint}
        )
        with store.attempt(identity) as attempt:
            statistics = build_snapshot(store, "web", FIXED, previous, {"web": source}, built, attempt)
            previous = read_snapshot(store, store.publish(attempt, statistics, {}, 0.0))
        assert publish(previous, tokens)
        snapshots.append(previous)
    return snapshots


def _tokens(store: Store, number: int, shards: int, random: np.random.Generator) -> Artifact:
    """A tokenize artifact whose record and index name shards that were never written."""
    entries: list[dict[str, Any]] = [
        {
            "file": f"shard-{index:06d}.arrow",
            "documents": 270_000,
            "tokens": SHARD_TOKENS,
            "text_bytes": 4 * SHARD_TOKENS,
            "bytes": 4 * SHARD_TOKENS + 10_000_000,
            "sha256": random.bytes(32).hex(),
        }
        for index in range(shards)
    ]
    totals = {
        "documents": shards * 270_000,
        "tokens": shards * SHARD_TOKENS,
        "bytes": 4 * shards * SHARD_TOKENS,
        "shards": shards,
    }

    def build(attempt: Attempt) -> dict[str, Any]:
        index = {"index_version": 1, "vocab_size": 100_000, "shards": entries}
        (attempt.output / "train").mkdir()
        (attempt.output / "train" / "shards.json").write_text(json.dumps(index))
        counts = {key: totals[key] for key in ("documents", "tokens", "bytes")}
        empty = dict.fromkeys(totals, 0)
        return {"train": totals, "held_out": empty, "languages": {"en": counts}, "sources": {"web": counts}}

    artifact = _artifact(store, "tokenize", number, build)
    record = dict(artifact.record)
    files = [{"name": f"train/{e['file']}", "bytes": e["bytes"], "sha256": e["sha256"]} for e in entries]
    record["files"] = [*record["files"], *files]
    store.folder("tokenize", artifact.fingerprint).write_json("record.json", record)
    return store.open("tokenize", artifact.fingerprint)


def _inventory(number: int) -> Callable[[Attempt], dict[str, Any]]:
    def build(attempt: Attempt) -> dict[str, Any]:
        rows = [
            {
                "path": f"/crawl/{number}/{index}.warc.gz", "kind": "warc", "bytes": 10**9, "sha256": f"{index:064x}",
                "made_from": [{"name": f"{number}/{index}.warc.gz"}],
            }
            for index in range(100)
        ]  # fmt: skip
        value = {"source": "web", "origin": "files", "licence": "unknown", "files": rows}
        (attempt.output / "inventory.json").write_text(json.dumps(value))
        return {}

    return build


def _artifact(store: Store, stage: str, number: int, build: Callable[[Attempt], dict[str, Any]]) -> Artifact:
    identity = StageIdentity(stage=stage, version=1, config={"number": number}, inputs={})
    with store.attempt(identity) as attempt:
        return store.publish(attempt, build(attempt), {}, 0.0)


def _timed(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return round(time.perf_counter() - started, 3)


if __name__ == "__main__":
    main()
