"""MinHash end to end: datatrove's four stages and the stage `deduplicate` on the same documents.

    python benchmarks/minhash.py DOCUMENTS.parquet... [--copies 5] [--rounds 2] [--json]

To the documents of the given Parquet files (as `curate` writes them) come edited copies of each, in which every word is
replaced with a probability of 1, 2, 5, 10, 20 %. Each side runs in a process of its own, the two in turn; what counts
is processor time, start-up included, from Parquet to what is left. Recall is the share of copies that are removed.
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

import xxhash
from in_process import InProcess

from illada.artifacts import Artifact, Attempt, NoProgress, StageIdentity, Store
from illada.config import DataPlacement, Deduplicate
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents

RATES = (0.01, 0.02, 0.05, 0.10, 0.20)
FILE_DOCUMENTS = 2000
FORMS = {"ngram": 5, "bands": 14, "rows": 8}


def main() -> None:
    """Print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=("stock", "own"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        (_stock if arguments.side == "stock" else _own)(arguments.files[0])
        return
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), arguments.files, arguments.rounds), indent=1))


def measure(root: Path, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Seconds of each round by side, documents a second, recall by rate, and how the removals differ."""
    planted = write_corpus(root / "input", files)
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
    documents = len(planted)
    return {
        "documents": documents,
        "cpu_seconds": seconds,
        "documents_per_second": {side: round(documents / taken) for side, taken in best.items()},
        "ratio": round(best["stock"] / best["own"], 1),
        "removed": {side: documents - len(ids) for side, ids in kept.items()},
        "removed_by_one_side_only": len(kept["stock"] ^ kept["own"]),
        "recall": {
            side: {
                str(rate): round(sum(name not in ids for name in names) / len(names), 4)
                for rate in RATES
                if (names := [name for name, given in planted.items() if given == rate])
            }
            for side, ids in kept.items()
        },
    }


def write_corpus(folder: Path, files: Sequence[Path]) -> dict[str, float]:
    """Documents and their copies in shuffled order, copies never first; the rate of each (0 of an original) by id."""
    generator = random.Random(0)
    originals = [document for file in files for document in read_documents(file)]
    vocabulary = sorted({word for document in originals[:2000] for word in document.text.split()})
    rates: dict[str, float] = {}
    rows: list[TextDocument] = []
    copies: list[TextDocument] = []
    for document in originals:
        rates[document.id] = 0.0
        rows.append(document)
        for rate in RATES:
            words = document.text.split(" ")
            text = " ".join(generator.choice(vocabulary) if generator.random() < rate else word for word in words)
            name = document_id("copy", document.id, str(rate))
            rates[name] = rate
            copies.append(TextDocument(text=text, id=name, url="", source="copy", language="en", language_score=1.0))
    generator.shuffle(copies)
    rows += copies
    for first in range(0, len(rows), FILE_DOCUMENTS):
        path = folder / f"{first // FILE_DOCUMENTS:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_documents(path, rows[first : first + FILE_DOCUMENTS])
    return rates


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
    kept = [document.id for file in document_files(made) for document in read_documents(file.path())]
    (root / "own.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
