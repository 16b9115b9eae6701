"""Bad input through the whole chain: nothing crashes, nothing is lost without a count and a name, twice the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzz import archive, lines
from text_bench import Bench

from illada.artifacts import Artifact, NoProgress
from illada.config import Curate, DataPlacement, Deduplicate, Tokenize, Tokenizer
from pipelines.curate import curate
from pipelines.deduplicate import deduplicate
from pipelines.documents import document_files, read_documents
from pipelines.funnel import MAX_DAMAGED
from pipelines.tokenize import tokenize_documents
from pipelines.tokenizer import build_tokenizer
from pipelines.warc import Damage, read_warc

pytestmark = pytest.mark.usefixtures("cluster")

PERMISSIVE = Curate(
    language_threshold=0,
    url_filter=True,
    gopher_repetition=False,
    gopher_quality=False,
    c4=False,
    fineweb=False,
    rejected_sample=1.0,
)
COLUMNS = {"text": "text", "id": "id", "url": "url", "date": "date"}
WORKERS = tuple(DataPlacement(workers=count, cpus_per_worker=1) for count in (1, 2))


def checksums(artifact: Artifact) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in artifact.record["files"]}


def accounts(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """The funnel by step; checks it, and that each failure is named."""
    funnel = artifact.statistics["funnel"]
    for row in funnel:
        ended = row["documents_out"] + sum(row["dropped"].values()) + sum(row["failed"].values())
        assert row["documents_in"] == ended
    failed = sum(sum(row["failed"].values()) for row in funnel)
    assert len(artifact.statistics["damaged"]) == min(failed, MAX_DAMAGED)
    assert all(item["file"] and item["record"] and item["error"] for item in artifact.statistics["damaged"])
    documents = sum(1 for file in document_files(artifact) for _ in read_documents(file.path()))
    assert funnel[-1]["documents_out"] == documents
    return {row["step"]: row for row in funnel}


@pytest.mark.parametrize(
    ("seeds", "pages", "config"),
    [
        (range(24), 12, PERMISSIVE),
        pytest.param(range(100, 200), 24, PERMISSIVE, marks=pytest.mark.slow),
        pytest.param(range(200, 250), 24, Curate(rejected_sample=1.0, language_threshold=0.3), marks=pytest.mark.slow),
    ],
)
def test_bad_input_through_the_whole_chain(
    bench: Bench, tmp_path: Path, seeds: range, pages: int, config: Curate
) -> None:
    archives, tables = [], []
    for seed in seeds:
        archives.append(tmp_path / f"{seed}.warc.gz")
        archives[-1].write_bytes(archive(seed, pages))
        tables.append(tmp_path / f"{seed}.jsonl")
        tables[-1].write_bytes(lines(seed, pages))
    sources = {
        "web": bench.source("web", [(path, "warc") for path in archives]),
        "lines": bench.source("lines", [(path, "jsonl") for path in tables], columns=COLUMNS),
    }

    def curated(place: DataPlacement) -> Artifact:
        return bench.run(
            "curate",
            {"workers": place.workers},
            lambda attempt: curate(config, sources, attempt, place, NoProgress()),
        )

    first, second = map(curated, WORKERS)
    assert checksums(first) == checksums(second)
    assert first.statistics == second.statistics
    found = [item for path in archives for item in read_warc(path)]
    given = [line for path in tables for line in path.open("rb") if line.strip()]
    rows = accounts(first)
    assert rows["read"]["documents_in"] == len(found) + len(given)
    assert rows["read"]["failed"]["damaged"] > sum(isinstance(item, Damage) for item in found) > 0

    clean = bench.run(
        "deduplicate", {}, lambda attempt: deduplicate(Deduplicate(), first, attempt, WORKERS[1], NoProgress())
    )
    assert accounts(clean)["exact"]["documents_in"] == sum(
        row["documents"] for row in first.statistics["languages"].values()
    )
    tokenizer = bench.run(
        "tokenizer", {}, lambda attempt: build_tokenizer(Tokenizer(vocab_size=400), clean, attempt, NoProgress())
    )
    tokens = bench.run(
        "tokenize",
        {},
        lambda attempt: tokenize_documents(Tokenize(held_out=0.2), clean, tokenizer, attempt, WORKERS[1], NoProgress()),
    )
    kept = sum(row["documents"] for row in clean.statistics["languages"].values())
    assert sum(tokens.statistics[split]["documents"] for split in ("train", "held_out")) == kept > 20
    text = sum(row["bytes"] for row in clean.statistics["languages"].values())
    assert sum(tokens.statistics[split]["bytes"] for split in ("train", "held_out")) == text
