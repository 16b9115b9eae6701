"""Documents in Parquet to token shards on one core: stock datatrove, `tokenizers` and gigatoken as the stage uses them.

python benchmarks/tokenization.py [--documents 20000] [--vocabulary 32000] [--rounds 3] [--json FILE]

The documents are the Python sources and package descriptions of the installed environment. The three are alternated in
one process. `stock` reads with ParquetReader and writes with DocumentTokenizer, unshuffled; the two others are the
worker of stage `tokenize` and the joining of its pieces into shards. Processor time of the process, start-up left out;
the ids of every document are compared. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import importlib.metadata

import numpy as np
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Folder, NoProgress, StageIdentity, Store, sha256_file
from illada.config import Tokenize, Tokenizer
from illada.data.shards import TokenShards, write_index
from illada.data.tokenizer import BOS_ID, EOS_ID, SPECIAL_TOKENS, TextTokenizer
from pipelines.documents import TextDocument, document_files, document_id, write_documents
from pipelines.encoding import UnitTokenizer
from pipelines.joining import SHARD, ShardJoiner, plan_shards
from pipelines.pieces import Piece
from pipelines.pool import Unit
from pipelines.shared import share_array
from pipelines.tokenizer import build_tokenizer

SHARD_TOKENS = 2**24


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), options.documents, options.vocabulary, options.rounds)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")


def measure(root: Path, documents: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Figures by way: tokens, processor seconds of each round, tokens a second."""
    store = Store(root / "store")

    def build(name: str, builder: Callable[[Attempt], dict[str, Any]]) -> Artifact:
        with store.attempt(StageIdentity(stage=name, version=1, config={}, inputs={})) as attempt:
            return store.publish(attempt, builder(attempt), {}, 0.0)

    texts = build("documents", lambda attempt: _write(attempt.output / "documents" / "00000.parquet", documents))
    config = Tokenizer(vocab_size=vocabulary)
    tokenizer = build("tokenizer", lambda attempt: build_tokenizer(config, texts, attempt, NoProgress()))
    ways: dict[str, Callable[[Path], tuple[float, list[np.ndarray[Any, Any]]]]] = {
        "stock": lambda folder: _stock(texts, tokenizer, folder),
        "tokenizers": lambda folder: _ours(texts, tokenizer, folder, fast=False),
        "gigatoken": lambda folder: _ours(texts, tokenizer, folder, fast=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    expected: list[np.ndarray[Any, Any]] | None = None
    equal = dict.fromkeys(ways, True)
    for number, (way, run) in itertools.product(range(rounds), ways.items()):
        spent, ids = run(root / f"{way}-{number}")
        seconds[way].append(spent)
        expected = ids if expected is None else expected
        equal[way] &= len(ids) == len(expected) and all(map(np.array_equal, ids, expected))
    assert expected is not None
    tokens = sum(map(len, expected))
    speed = {way: tokens / min(spent) for way, spent in seconds.items()}
    return {
        "documents": len(expected),
        "tokens": tokens,
        "text_bytes": texts.statistics["bytes"],
        "vocabulary": vocabulary,
        "versions": {name: importlib.metadata.version(name) for name in ("datatrove", "tokenizers", "gigatoken")},
        "cpu_seconds": seconds,
        "tokens_per_second_and_core": {way: round(value) for way, value in speed.items()},
        "times_stock": {way: round(value / speed["stock"], 1) for way, value in speed.items()},
        "ids_equal": equal,
    }


def _write(path: Path, count: int) -> dict[str, int]:
    documents = list(itertools.islice(_documents(), count))
    write_documents(path, documents)
    return {"documents": len(documents), "bytes": sum(document.bytes for document in documents)}


def _documents() -> Iterator[TextDocument]:
    root = Path(np.__file__).parents[1]
    for path in sorted([*root.rglob("*.py"), *root.glob("*.dist-info/METADATA")]):
        text = path.read_bytes().decode("utf-8", "replace")
        if text.strip():
            yield TextDocument(
                text=text,
                id=document_id("installed", str(path.relative_to(root))),
                url="",
                source="installed",
                language="python" if path.suffix == ".py" else "en",
                language_score=1.0,
            )


def _stock(texts: Artifact, tokenizer: Artifact, folder: Path) -> tuple[float, list[np.ndarray[Any, Any]]]:
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    reader = ParquetReader(str(texts.local() / "documents"))
    eos = SPECIAL_TOKENS[EOS_ID]
    writer = DocumentTokenizer(
        str(folder), str(tokenizer.local() / "tokenizer.json"), eos_token=eos, shuffle_documents=False
    )
    assert writer.tokenizer is not None  # loaded before the clock runs
    writer.tokenizer.encode_special_tokens = True
    started = time.process_time()
    writer.run(reader.run())
    spent = time.process_time() - started
    (data,) = folder.glob("*.ds")
    flat = np.fromfile(data, np.uint16 if writer.token_size == 2 else np.uint32)
    ends = np.fromfile(f"{data}.index", np.uint64).astype(np.int64)
    return spent, [np.concatenate([[BOS_ID], part]) for part in np.split(flat, ends[:-1])]


def _ours(
    texts: Artifact, tokenizer: Artifact, folder: Path, *, fast: bool
) -> tuple[float, list[np.ndarray[Any, Any]]]:
    config = Tokenize(shard_tokens=SHARD_TOKENS, held_out=1e-9)
    worker = UnitTokenizer(tokenizer, config, fast)
    vocabulary = TextTokenizer.load(tokenizer.local()).vocab_size
    (file,) = document_files(texts)
    groups = file.metadata().num_row_groups
    started = time.process_time()
    written = []
    for first in range(0, groups, 8):
        name = f"unit-{first:06d}"
        (folder / "units" / name).mkdir(parents=True)
        unit = Unit(name=name, payload={"file": file.reference, "first": first, "count": 8}, weight=1)
        statistics = worker.run(unit, folder / "units" / name)
        written.append((name, [Piece(**piece) for piece in statistics["pieces"]["train"]]))
    spent = time.process_time() - started
    return spent + _join(written, vocabulary, folder), _read(folder, file.path())


def _join(written: list[tuple[str, list[Piece]]], vocabulary: int, folder: Path) -> float:
    """Make shards of the pieces; returns the seconds it took."""
    work = Folder.at(folder)
    started = time.process_time()
    plan = plan_shards("train", written, SHARD_TOKENS, SHARD_TOKENS // 256)
    tables = {"train": share_array(plan.pieces, "pieces", folder, work)}
    joiner = ShardJoiner(work / "units", tables, vocabulary)
    shards = []
    for number, (unit, (source, language)) in enumerate(zip(plan.units, plan.groups, strict=True)):
        output = folder / "shards" / f"shard-{number:06d}"
        output.mkdir(parents=True)
        entry = joiner.run(unit, output)["entry"]
        file = f"{output.name}/{SHARD}"
        group = {"source": source, "language": language}
        shards.append({"file": file, **entry, "sha256": sha256_file(output / SHARD), **group})
    write_index(folder / "shards", vocabulary, shards)
    return time.process_time() - started


def _read(folder: Path, documents: Path) -> list[np.ndarray[Any, Any]]:
    """The ids of every document, BOS and EOS included, in the order of the documents."""
    shards = TokenShards.open(folder / "shards")
    ids: dict[str, np.ndarray[Any, Any]] = {}
    for shard in range(len(shards)):
        names = shards.batch(shard).column("id").to_pylist()
        ids |= dict(zip(names, np.split(shards.values(shard), shards.offsets(shard)[1:-1]), strict=True))
    return [ids[name] for name in pq.read_table(documents, columns=["id"])["id"].to_pylist()]


if __name__ == "__main__":
    main()
