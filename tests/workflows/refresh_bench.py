"""A corpus that grows: documents that pass the filters, as JSON lines in a folder and as web archives of a crawl."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from illada.config import RefreshConfig, RunConfig
from illada.durable.database import open_database
from illada.durable.engine import Graph, execute
from illada.durable.runs import RunRegistry
from pipelines.warc import WarcWriter
from workflows.refresh import refresh

_WORDS = """
library harbour village engineer teacher river bridge garden kitchen window letter market station winter summer morning
evening doctor farmer soldier painter baker captain child neighbour committee recipe clock chestnut storm boat printer
report answer question story field rope wall roof price lamp mill pond meadow accident tool advice apprentice road mail
map stone stream seed bag colour fence sea wind page rose market bread street dog house hall night school train
passenger reader ink paper onion salt patience cook spring pass bank bird horse wheel engine ticket coat table chair
""".strip().split()


def report(number: int) -> str:
    """Report `number`: English prose that no other one resembles."""
    draw = random.Random(number)
    lines = []
    for _ in range(draw.randint(14, 24)):
        a, b, c, d, e = draw.sample(_WORDS, 5)
        lines.append(f"The {a} of the {b} was for a {c} what the {d} had been to that {e} of {draw.choice(_WORDS)}.")
    return f"Report {number} of the archive\n" + "\n".join(lines)


def write_lines(path: Path, numbers: Iterable[int]) -> Path:
    """Reports as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": report(number)}) + "\n" for number in numbers))
    return path


def write_crawl(path: Path, numbers: Iterable[int]) -> Path:
    """Reports as pages of a web archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with WarcWriter(path, "test") as writer:
        for number in numbers:
            head, *lines = report(number).split("\n")
            body = "".join(f"<p>{line}</p>\n" for line in lines)
            page = f"<!DOCTYPE html><html><head><title>{head}</title></head><body><main>{body}</main></body></html>"
            writer.write(f"https://example.org/{number}", page.encode(), datetime(2026, 5, 1, tzinfo=UTC))
    return path


def write_listing(path: Path, names: Iterable[str]) -> Path:
    """A crawl's listing."""
    path.write_bytes(gzip.compress("".join(f"{name}\n" for name in names).encode()))
    return path


def configuration(root: Path, **changes: Any) -> RefreshConfig:
    """A refresh of the folder `root/lines` and of the crawl that `root/warc.paths.gz` lists, into `root/store`."""
    value = {
        "workflow": "refresh",
        "name": "daily",
        "corpus": "web",
        "sources": [
            {
                "kind": "folder", "name": "lines", "files": "jsonl", "location": str(root / "lines"),
                "licence": "CC0-1.0",
            },
            {
                "kind": "listing", "name": "crawl", "files": "warc", "listing": str(root / "warc.paths.gz"),
                "base": f"{root}/crawl/",
            },
        ],
        "curate": {"url_filter": False, "languages": ["en"], "gopher_repetition": False},
        "tokenizer": {"vocab_size": 400},
        "tokenize": {"shard_tokens": 5000, "held_out": 0.2},
        "placement": {"store": str(root / "store"), "data": {"workers": 2}},
        **changes,
    }  # fmt: skip
    return RefreshConfig.model_validate(value)


def run_refresh(config: RefreshConfig, database: Path, run_id: str = "daily") -> dict[str, Any]:
    """Run the workflow in this process; returns its result."""
    return execute_graph(config, database, run_id, lambda runner: refresh(runner, config))


def execute_graph(config: RunConfig, database: Path, run_id: str, graph: Graph, **options: Any) -> dict[str, Any]:
    """Register a run and take it to its end in this process."""
    engine = open_database(f"sqlite:///{database}")
    registered = RunRegistry(engine).create(run_id, "", config.identity(), config.placement.store, [])
    return dict(execute(registered, engine, graph, **options))
