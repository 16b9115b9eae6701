"""A schedule on a real cluster: two schedulers, one of them killed, and refreshes that run one after another."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from bench import Bench
from chain import write_corpus

pytestmark = pytest.mark.slow

RUNS = ["news-20240101t0000z", "news-20250101t0000z"]


@pytest.fixture
def schedulers(cluster: Bench) -> Iterator[list[subprocess.Popen[str]]]:
    """Two services."""
    made = [
        subprocess.Popen(
            [sys.executable, "-m", "illada.cli.main", "scheduler"],
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    yield made
    for process in made:
        process.kill()
        process.communicate()


def add(cluster: Bench) -> None:
    """A yearly refresh of a folder with one file."""
    folder = cluster.folder / "lines"
    folder.mkdir()
    write_corpus(folder / "first.jsonl", documents=80)
    config = {
        "workflow": "refresh",
        "name": "news",
        "corpus": "news",
        "sources": [
            {"kind": "folder", "name": "lines", "files": "jsonl", "location": str(folder), "licence": "CC0-1.0"}
        ],
        "curate": {"url_filter": False, "languages": ["en"], "gopher_repetition": False},
        "tokenizer": {"vocab_size": 400},
        "tokenize": {"shard_tokens": 5000, "held_out": 0.2},
        "placement": {"store": str(cluster.folder / "store-news"), "data": {"workers": 2}},
    }
    path = cluster.folder / "news.yaml"
    path.write_text(yaml.safe_dump(config))
    done = cluster.illada("schedule", "add", "news", "--cron", "0 0 1 1 *", "--config", str(path))
    assert done.returncode == 0, done.stderr


def slots(cluster: Bench) -> list[dict[str, Any]]:
    """As `illada schedule list` has them, the first one first."""
    done = cluster.illada("schedule", "list", "news", "--json")
    assert done.returncode == 0, done.stderr
    return list(reversed(json.loads(done.stdout)[0]["slots"]))


@pytest.mark.timeout(600)
def test_scheduled_refreshes(cluster: Bench, schedulers: list[subprocess.Popen[str]]) -> None:
    add(cluster)
    done = cluster.illada("schedule", "backfill", "news", "--from", "2023-12-31", "--to", "2025-01-02")
    assert done.stdout.split() == RUNS, done.stderr
    deadline = time.monotonic() + 400
    while slots(cluster)[0]["state"] in ("queued", "created"):
        assert time.monotonic() < deadline, cluster.log(RUNS[0])
        time.sleep(0.5)
    schedulers[0].kill()
    while [slot["state"] for slot in slots(cluster)] != ["finished", "finished"]:
        assert time.monotonic() < deadline, (slots(cluster), cluster.log(RUNS[0]), cluster.log(RUNS[1]))
        time.sleep(1)
    events = cluster.query("select run_id, kind, at from illada_events where run_id like 'news-%%' order by id")
    when = {(run, kind): at for run, kind, at in events}
    assert when[RUNS[0], "finished"] < when[RUNS[1], "started"], "one at a time"
    assert sum(kind == "started" for _, kind, _ in events) == 2, "each run had one driver"
    rebuilt = cluster.query("select stage from illada_stages where run_id = %s and not reused", RUNS[1])
    built = cluster.query("select stage from illada_stages where run_id = %s and not reused", RUNS[0])
    assert len(rebuilt) < len(built), "the second one found nothing new"
    schedulers[1].terminate()
    said, _ = schedulers[1].communicate(timeout=60)
    assert schedulers[1].returncode == 0 and said.rstrip().endswith("ended"), said
