"""MinHash end to end: datatrove's four stages and the stage `deduplicate` on the same documents.

    python benchmarks/minhash.py DOCUMENTS.parquet... [--rounds 2] [--json FILE]

To the documents of the given Parquet files (as `curate` writes them) come five edited copies of each, in which every
word is replaced with a probability of 1, 2, 5, 10, 20 %. Each side runs in a process of its own, the two in turn; what
counts is processor time, start-up included, from Parquet to what is left. Recall is the share of copies that are
removed, by how similar they are to their original: shingles in both of those in either (Jaccard), in tenths.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import xxhash
from datatrove.utils.text import simplify_text
from in_process import InProcess

from illada.artifacts import Artifact, Attempt, NoProgress, StageIdentity, Store, write_json
from illada.config import DataPlacement, Deduplicate
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents

RATES = (0.01, 0.02, 0.05, 0.10, 0.20)
FILE_DOCUMENTS = 2000
FORMS = {"ngram": 5, "bands": 14, "rows": 8}


def main() -> None:
    """Print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=2, help="of which the best one of each side counts")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    parser.add_argument("--side", choices=("stock", "own"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        (_stock if arguments.side == "stock" else _own)(arguments.files[0])
        return
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), arguments.files, arguments.rounds)
    if arguments.json:
        write_json(arguments.json, figures)
    print(json.dumps(figures, indent=1))


def measure(root: Path, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Seconds of each round by side, documents a second, recall by similarity, and how the removals differ."""
    documents, planted = write_corpus(root / "input", files)
    seconds: dict[str, list[float]] = {"stock": [], "own": []}
    kept: dict[str, set[str]] = {}
    for _ in range(rounds):
        for side, taken in seconds.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, __file__, str(root), "--side", side]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2))
            kept[side] = set(json.loads((root / f"{side}.json").read_text()))
    best = {side: min(taken) for side, taken in seconds.items()}
    return {
        "documents": documents,
        "cpu_seconds": seconds,
        "documents_per_second": {side: round(documents / taken) for side, taken in best.items()},
        "ratio": round(best["stock"] / best["own"], 1),
        "removed": {side: documents - len(ids) for side, ids in kept.items()},
        "removed_by_one_side_only": len(kept["stock"] ^ kept["own"]),
        "planted": {tenth: len(names) for tenth, names in planted.items()},
        "recall": {
            side: {tenth: round(len(names - ids) / len(names), 4) for tenth, names in planted.items()}
            for side, ids in kept.items()
        },
    }


def write_corpus(folder: Path, files: Sequence[Path]) -> tuple[int, dict[str, set[str]]]:
    """Documents, then their copies in shuffled order: how many in all, and the ids of copies by tenth of similarity."""
    generator = random.Random(0)
    originals = [document for file in files for document in read_documents(file)]
    vocabulary = sorted({word for document in originals[:2000] for word in document.text.split()})
    tenths = [f"{tenth / 10}-{(tenth + 1) / 10}" for tenth in range(10)]
    planted: dict[str, set[str]] = {tenth: set() for tenth in reversed(tenths)}
    copies: list[TextDocument] = []
    for document in originals:
        whole = shingles(document.text)
        for rate in RATES:
            words = document.text.split(" ")
            text = " ".join(generator.choice(vocabulary) if generator.random() < rate else word for word in words)
            name = document_id("copy", document.id, str(rate))
            copies.append(TextDocument(text=text, id=name, url="", source="copy", language="en", language_score=1.0))
            edited = shingles(text)
            similarity = len(whole & edited) / len(whole | edited)
            planted[tenths[min(int(10 * similarity), 9)]].add(name)
    generator.shuffle(copies)
    rows = originals + copies
    for first in range(0, len(rows), FILE_DOCUMENTS):
        path = folder / f"{first // FILE_DOCUMENTS:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_documents(path, rows[first : first + FILE_DOCUMENTS])
    return len(rows), {tenth: names for tenth, names in planted.items() if names}


def shingles(text: str) -> set[int]:
    """Hashes of all runs of as many words as a shingle has, in normal form."""
    words = simplify_text(text).split()
    return {
        hash(tuple(words[first : first + FORMS["ngram"]])) for first in range(max(1, len(words) - FORMS["ngram"] + 1))
    }


def _stock(root: Path) -> None:
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader

    work = root / "stock"
    shutil.rmtree(work, ignore_errors=True)
    config = MinhashConfig(n_grams=FORMS["ngram"], num_buckets=FORMS["bands"], hashes_per_bucket=FORMS["rows"])

    def read() -> Any:
        return ParquetReader(str(root / "input")).run()

    signature = MinhashDedupSignature(str(work / "signatures"), config=config, language="en")
    signature._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # xxhash 4 takes bytes only
    signature.run(read(), rank=0, world_size=1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config).run(
            None, bucket, config.num_buckets
        )
    MinhashDedupCluster(str(work / "buckets"), str(work / "removed"), config=config).run(None, 0, 1)
    kept = MinhashDedupFilter(str(work / "removed")).run(read(), 0, 1)
    (root / "stock.json").write_text(json.dumps([document.id for document in kept]))


def _own(root: Path) -> None:
    from pipelines.deduplicate import deduplicate

    shutil.rmtree(root / "store", ignore_errors=True)
    store = Store(root / "store")

    def build(stage: str, builder: Any) -> Artifact:
        with store.attempt(StageIdentity(stage=stage, version=1, config={}, inputs={})) as attempt:
            return store.publish(attempt, builder(attempt), {}, 0.0)

    def adopt(attempt: Attempt) -> dict[str, Any]:
        shutil.copytree(root / "input", attempt.output / "documents")
        return {}

    with mock.patch("pipelines.deduplicate.ActorPool", InProcess):
        curated = build("curate", adopt)
        config = Deduplicate(**FORMS)
        made = build(
            "deduplicate", lambda attempt: deduplicate(config, curated, attempt, DataPlacement(), NoProgress())
        )
    kept = [
        name for file in document_files(made) for name in pq.read_table(file.path(), columns=["id"])["id"].to_pylist()
    ]
    (root / "own.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
