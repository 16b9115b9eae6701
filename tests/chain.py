"""A whole chain small enough for tests: synthetic prose, Python sources, a model of some thousand parameters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

STAGES = (
    "acquire-prose", "acquire-code", "curate", "deduplicate", "tokenizer", "tokenize", "pretrain", "export-base",
    "evaluate-base", "pairs", "sft", "export-sft", "evaluate-sft", "gates", "release",
)  # fmt: skip

_THINGS = """
engineer reader system library village network server book harbour packet experiment bridge river language teacher
garden kitchen window letter market station winter summer morning doctor farmer painter baker captain child neighbour
committee recipe clock storm boat printer answer question field roof lamp mill meadow accident apprentice road map
stream seed fence table horse wheel engine ticket coat chair paper onion school train passenger street house
"""
_QUALITIES = "careful old small quiet long strange new heavy bright narrow honest slow broken distant"
_VERBS = "describes measures repairs visited replaces explains changes carries follows remembers opened built"
_PLACES = "behind before near without beside after under for from against with"
_LINKS = "because and but while until although since whenever"


def write_corpus(path: Path, documents: int = 240) -> Path:
    """JSON lines of English prose that passes the quality filters, every fortieth document twice."""
    generator = np.random.default_rng(7)

    def pick(words: str) -> str:
        return str(generator.choice(words.split()))

    def clause() -> str:
        return (
            f"the {pick(_QUALITIES)} {pick(_THINGS)} {pick(_PLACES)} that {pick(_THINGS)} {pick(_VERBS)} "
            f"a {pick(_THINGS)} of the {pick(_THINGS)}"
        )

    rows = []
    for number in range(documents):
        sentences = []
        for _ in range(generator.integers(14, 30)):
            sentence = f"{clause()} {pick(_LINKS)} {clause()}"
            sentences.append(f"{sentence[0].upper()}{sentence[1:]}, as note {generator.integers(10**6)} says.")
        rows.append({"text": f"Report {number} of the archive\n" + "\n".join(sentences)})
        if number % 40 == 0:
            rows.append(rows[-1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(folder: Path, corpus: Path | None = None, **changes: Any) -> Path:
    """A configuration of the chain in `folder`, its placement there too; `changes` replace top-level sections.

    Runs of one `corpus` (one is written when there is none) share the stages they have in common.
    """
    corpus = corpus or write_corpus(folder / "corpus.jsonl")
    schedule = {"peak": 1e-2, "minimum": 1e-3, "warmup_steps": 2, "decay_fraction": 0.3}
    layout = {"tensor": 2, "pipeline": 1, "micro_batch": 4, "cpus_per_rank": 0.5, "checkpoint_steps": 4}
    config: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "sources": [
                {"kind": "jsonl", "name": "prose", "paths": [str(corpus)]},
                {"kind": "python-code", "name": "code", "files": 24},
            ],
            "tokenizer": {"vocab_size": 512},
            "tokenize": {"shard_tokens": 50_000, "held_out": 0.1},
            "pairs": {"max_pairs": 60, "max_characters": 200, "held_out": 0.1},
        },
        "model": {
            "layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "ffn_size": 64, "vocab_size": 512,
            "max_positions": 64,
        },
        "pretrain": {"window": 64, "global_batch": 8, "steps": 12, "schedule": {**schedule, "decay": "cosine"}},
        "sft": {"window": 64, "global_batch": 8, "epochs": 1, "schedule": {**schedule, "decay": "linear"}},
        "evaluate": {"windows": 8, "draws": 2},
        "generate": {"max_new_tokens": 8, "block": 4, "steps_per_block": 4, "prompts": ["Hi"]},
        "release": {
            "model_name": "tiny",
            "gates": {"evaluation": [{"metric": "held_out.nll_per_byte", "at_most": 9}]},
            "waivers": {"decontamination": "a test", "licences": "a test"},
        },
        "placement": {
            "store": str(folder / "store"), "output": str(folder / "output"), "ray_cpus": 4, "object_store_mb": 80,
            "data": {"workers": 2}, "pretrain": layout, "sft": layout,
        },
        **changes,
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def seed(store: Path, source: Path, before: str) -> None:
    """Copy what comes before a stage from the store of another run of the same corpus."""
    for stage in STAGES[: STAGES.index(before)]:
        shutil.copytree(source / stage, store / stage)


def command(*arguments: str | Path) -> list[str]:
    """`illada ...` with this interpreter."""
    return [sys.executable, "-m", "illada.cli.main", *map(str, arguments)]


def illada(*arguments: str | Path, database: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {**os.environ, "ILLADA_DATABASE": f"sqlite:///{database}"}
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def stage_states(database: Path, run_id: str = "tiny") -> dict[str, str]:
    """State of every stage the run has reached, read as another process sees it."""
    if not database.exists():
        return {}
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10) as connection:
        try:
            return dict(connection.execute("select stage, state from illada_stages where run_id = ?", (run_id,)))
        except sqlite3.OperationalError:
            return {}  # not created yet


def start_and_kill_in(
    stage: str, arguments: list[str | Path], database: Path, timeout: float = 240, run_id: str = "tiny"
) -> None:
    """Start the command in a process group of its own and `kill -9` the driver once `stage` is being built.

    A stage of a tenth of a second may be over before it is looked at; the driver is then killed in what follows.
    """
    environment = {**os.environ, "ILLADA_DATABASE": f"sqlite:///{database}"}
    driver = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    deadline = time.monotonic() + timeout
    while stage_states(database, run_id).get(stage) not in ("running", "done", "reused"):
        assert driver.poll() is None, f"the driver ended before {stage}: {driver.communicate()[0]}"
        assert time.monotonic() < deadline, f"{stage} was not reached: {stage_states(database, run_id)}"
        time.sleep(0.02)
    time.sleep(0.3)  # into the work, past the stage's first lines
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()


def published(store: Path) -> dict[str, dict[str, str]]:
    """sha256 by file of every artifact, by stage: what two runs must have in common. Timings are left out."""
    found: dict[str, dict[str, str]] = {}
    for record in sorted(store.glob("*/*/record.json")):
        value = json.loads(record.read_text())
        files = {file["name"]: file["sha256"] for file in value["files"] if file["name"] not in _TIMED}
        found[value["stage"]] = {"fingerprint": value["fingerprint"], **files}
    return found


_TIMED = ("metrics.jsonl", "events.jsonl")


def losses(store: Path, stage: str) -> list[tuple[int, float]]:
    """(step, loss) of a training stage."""
    (metrics,) = store.glob(f"{stage}/*/attempt-*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]
