"""Substring deduplication: megabytes a second and memory as the corpus grows, and which planted repeats are cut.

python benchmarks/substrings.py [FILE...] [--megabytes 16 32] [--length 200]

Texts are random words, or those of the documents in FILE... (Parquet). In every second document a passage of an earlier
one is planted, of 0.5 to 5 times `length` bytes. Every unit of the stage runs in this process, one after another;
seconds are of its processor. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from in_process import InProcess

from illada.artifacts import Artifact, Attempt, NoProgress, StageIdentity, Store
from illada.config import DataPlacement, Substrings
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.substrings import substrings

GRADES = (0.5, 0.9, 1.0, 1.1, 2.0, 5.0)
_FILE_DOCUMENTS = 5000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--megabytes", nargs="+", type=float, default=[16, 32])
    parser.add_argument("--length", type=int, default=200)
    options = parser.parse_args()
    config = Substrings(length=options.length)
    with tempfile.TemporaryDirectory() as folder, mock.patch("pipelines.substrings.ActorPool", InProcess):
        store = Store(folder)
        run(store, "warm-up", config, ["a b " * 100, "some words"] * 2)
        rows = [measure(store, config, options.files, megabytes) for megabytes in options.megabytes]
    for before, after in itertools.pairwise(rows):
        after["bytes_ratio"] = round(after["megabytes"] / before["megabytes"], 2)
        after["seconds_ratio"] = round(after["cpu_seconds"] / before["cpu_seconds"], 2)
    print(json.dumps({"length": config.length, "runs": rows}, indent=1))


def measure(store: Store, config: Substrings, files: Sequence[Path], megabytes: float) -> dict[str, Any]:
    """Seconds, memory and the share of each grade's planted bytes that was cut."""
    texts, planted = plant(texts_of(files), int(megabytes * 1e6), config.length)
    after, seconds = run(store, f"{megabytes}", config, texts)
    left = {document.id: document.text for file in document_files(after) for document in read_documents(file.path())}
    cut: dict[float, list[bool]] = {grade: [] for grade in GRADES}
    for number, grade, passage in planted:
        middle = passage[5:-5]  # a word at its ends that is more than the passage stays
        cut[grade].append(middle not in left.get(identity(number), ""))
    size = sum(len(text.encode()) for text in texts)
    return {
        "megabytes": round(size / 1e6, 1),
        "documents": len(texts),
        "cpu_seconds": round(seconds, 1),
        "megabytes_per_second": round(size / 1e6 / seconds, 2),
        "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "planted_and_cut": {f"{grade} x length": f"{sum(found)}/{len(found)}" for grade, found in cut.items()},
        "funnel": after.statistics["funnel"][0],
        **{name: after.statistics[name] for name in ("cut_documents", "cuts", "cut_bytes")},
    }


def texts_of(files: Sequence[Path]) -> Iterator[str]:
    """The files' texts, or texts of 400 random words without end."""
    if files:
        for path in files:
            yield from (document.text for document in read_documents(path))
        return
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(20_000)]
    while True:
        yield " ".join(draw.choices(words, k=400))


def plant(source: Iterator[str], size: int, length: int) -> tuple[list[str], list[tuple[int, float, str]]]:
    """Texts of together `size` bytes, and what was planted: number of the document, grade, passage."""
    draw = random.Random(1)
    texts: list[str] = []
    planted = []
    while size > 0:
        text = next(source, None)
        if text is None:
            break
        other = draw.choice(texts) if len(texts) % 2 else ""
        grade = draw.choice(GRADES)
        wanted = int(grade * length)
        if other.isascii() and len(text) > wanted and len(other) > wanted:
            at = draw.randrange(len(other) - wanted)
            passage, place = other[at : at + wanted], text.find(" ", len(text) // 2) + 1
            text = f"{text[:place]}{passage} {text[place:]}"
            planted.append((len(texts), grade, passage))
        texts.append(text)
        size -= len(text.encode())
    return texts, planted


def identity(number: int) -> str:
    """The id of a document."""
    return document_id("benchmark", str(number))


def run(store: Store, name: str, config: Substrings, texts: Sequence[str]) -> tuple[Artifact, float]:
    """The stage's artifact, and the seconds of processor time it took."""

    def documents(attempt: Attempt) -> dict[str, Any]:
        for first in range(0, len(texts), _FILE_DOCUMENTS):
            rows = (
                TextDocument(text=text, id=identity(number), url="", source="s", language="en", language_score=1.0)
                for number, text in enumerate(texts[first : first + _FILE_DOCUMENTS], first)
            )
            write_documents(attempt.output / f"documents/{first:09d}.parquet", rows)
        return {}

    def publish(stage: str, build: Callable[[Attempt], dict[str, Any]]) -> Artifact:
        identity = StageIdentity(stage=stage, version=1, config={"name": name}, inputs={})
        with store.attempt(identity) as attempt:
            return store.publish(attempt, build(attempt), {}, started=0.0)

    source = publish("deduplicate", documents)
    started = time.process_time()
    made = publish("substrings", lambda attempt: substrings(config, source, attempt, DataPlacement(), NoProgress()))
    return made, time.process_time() - started


if __name__ == "__main__":
    main()
