"""What the signature index saves: deduplicating new documents against it, or everything together, as the corpus grows.

Both are the real stage, and both must keep the same new documents. Its units run one after another in this process, not
in the actor pool, so that processor time can be told, whatever else the machine does. Then the lookup alone, in memory.

python benchmarks/refresh.py --new 500 --old 1000 4000 16000
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
from in_process import InProcess

from illada.artifacts import Artifact, Attempt, NoProgress, StageIdentity, Store
from illada.config import DataPlacement, Deduplicate
from pipelines.deduplicate import deduplicate
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.index import SignatureIndex, contains, key_config, open_index, sort_keys

CONFIG = Deduplicate()


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", type=int, default=500)
    parser.add_argument("--old", type=int, nargs="+", default=[1000, 4000, 16000])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, mock.patch("pipelines.deduplicate.ActorPool", InProcess):
        store = Store(folder)
        _deduplicate(store, "warm-up", documents(range(10)), None)
        index = SignatureIndex(config=key_config(CONFIG))
        done = 0
        for old in arguments.old:
            grown, _ = _deduplicate(store, f"grow-{old}", documents(range(done, old)), index)
            index, done = open_index(grown, store), old
            # new ones, and among them a tenth of old ones with a word changed
            fresh = documents(range(10**6 + old, 10**6 + old + arguments.new - arguments.new // 10))
            fresh += [changed(document) for document in documents(range(arguments.new // 10))]
            refreshed, with_index = _deduplicate(store, f"refresh-{old}", fresh, index)
            everything, together = _deduplicate(store, f"all-{old}", documents(range(old)) + fresh, None)
            names = {document.id for document in fresh}
            assert ids(refreshed) == [name for name in ids(everything) if name in names]
            rows.append(
                {
                    "old": old,
                    "new": arguments.new,
                    "segments": len(index.segments),
                    "refresh_cpu_seconds": round(with_index, 2),
                    "recompute_cpu_seconds": round(together, 2),
                    "ratio": round(together / with_index, 1),
                }
            )
    print(json.dumps({"stage": rows, "lookup": [_lookup(2**power) for power in (16, 20, 24)]}, indent=1))


def documents(numbers: Sequence[int]) -> list[TextDocument]:
    """A text of 300 random words for each number."""
    found = []
    for number in numbers:
        draw = random.Random(number)
        text = " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(300))
        name = document_id("benchmark", str(number))
        found.append(TextDocument(text=text, id=name, url="", source="web", language="en", language_score=1.0))
    return found


def changed(document: TextDocument) -> TextDocument:
    """The same with another last word."""
    text, name = f"{document.text} changed", document_id("changed", document.id)
    return TextDocument(text=text, id=name, url="", source="web", language="en", language_score=1.0)


def ids(artifact: Artifact) -> list[str]:
    """Ids of the documents kept, in order."""
    return [document.id for file in document_files(artifact) for document in read_documents(file.path())]


def _deduplicate(
    store: Store, name: str, texts: list[TextDocument], index: SignatureIndex | None
) -> tuple[Artifact, float]:
    """The artifact, and the seconds of processor time that the stage took."""

    def curated(attempt: Attempt) -> dict[str, Any]:
        for number, start in enumerate(range(0, len(texts), 500)):
            write_documents(attempt.output / f"documents/{number:05d}.parquet", texts[start : start + 500])
        return {}

    source = _run(store, "curate", name, curated)
    started = time.process_time()
    made = _run(
        store,
        "deduplicate",
        name,
        lambda attempt: deduplicate(CONFIG, source, attempt, DataPlacement(), NoProgress(), index),
    )
    return made, time.process_time() - started


def _run(store: Store, stage: str, name: str, build: Any) -> Artifact:
    identity = StageIdentity(stage=stage, version=1, config={"name": name}, inputs={})
    with store.attempt(identity) as attempt:
        return store.publish(attempt, build(attempt), {}, 0.0)


def _lookup(rows: int) -> dict[str, Any]:
    """100,000 keys looked up in a table of `rows`."""
    generator = np.random.default_rng(0)
    table, _ = sort_keys(generator.integers(0, 2**63, (rows, 2), dtype=np.uint64))
    wanted, _ = sort_keys(generator.integers(0, 2**63, (100_000, 2), dtype=np.uint64))
    started = time.process_time()
    contains(table[0], table[1], wanted)
    seconds = time.process_time() - started
    return {"table_rows": rows, "keys_per_second": round(100_000 / seconds)}


if __name__ == "__main__":
    main()
