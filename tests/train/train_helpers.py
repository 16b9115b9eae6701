"""A tiny model, token shards with some structure, and attempts: what the tests of the training room start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from illada.artifacts import Attempt, Folder, NoProgress, Progress, StageIdentity
from illada.config import ModelConfig, Schedule, Training, TrainPlacement
from illada.data.shards import ShardWriter, document_batch
from illada.train import checkpoint
from illada.train.stage import train

WINDOW = 32
MODEL = ModelConfig(
    layers=2, hidden_size=32, heads=4, kv_heads=2, ffn_size=64, vocab_size=64, max_positions=WINDOW, rope_theta=10_000
)
TRAINING = Training(
    window=WINDOW,
    global_batch=8,
    steps=20,
    schedule=Schedule(peak=1e-2, minimum=1e-3, warmup_steps=4, decay="cosine", decay_fraction=0.3),
)


LONG = TRAINING.model_copy(update={"steps": 100})
"""For faults that follow progress: the driver looks twice a second, ranks look for a stop as often."""


def write_shards(folder: Path, documents: int = 64) -> Path:
    """Documents of 40 to 80 tokens that count upwards, so that there is something to learn."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    writer = ShardWriter(folder, vocab_size=MODEL.vocab_size, shard_tokens=2000)
    tokens = []
    for _ in range(documents):
        start, length = generator.integers(57), generator.integers(40, 80)
        tokens.append(np.concatenate(([1], 7 + (start + np.arange(length)) % 57, [2])))
    names = [f"{number:04d}" for number in range(documents)]
    writer.add(
        document_batch(
            tokens,
            ids=names,
            sources=["test"] * documents,
            languages=["en"] * documents,
            sizes=[len(row) for row in tokens],
            dtype=np.uint16,
        )
    )
    writer.close()
    return folder


def new_attempt(root: Path, name: str = "a", epoch: int = 0, stage: str = "pretrain") -> Attempt:
    """An attempt as the store makes them: private output, work shared by attempts of the same root."""
    identity = StageIdentity(stage=stage, version=1, config={}, inputs={})
    output, work = root / f"attempt-{name}", root / "work"
    output.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    return Attempt(
        identity=identity,
        output=output,
        work=Folder.at(work),
        scratch=work,
        location=Folder.at(output),
        epoch=epoch,
    )


def placement(tensor: int = 1, pipeline: int = 1, data: int = 1, **changes: Any) -> TrainPlacement:
    """A layout with micro-batches of two windows and a checkpoint every 10 steps."""
    defaults: dict[str, Any] = {"micro_batch": 2, "cpus_per_rank": 0.5, "checkpoint_steps": 10}
    return TrainPlacement(tensor=tensor, pipeline=pipeline, data=data, **{**defaults, **changes})


def run_stage(
    root: Path,
    shards: Path,
    layout: TrainPlacement,
    *,
    training: Training = TRAINING,
    initial: Path | None = None,
    progress: Progress | None = None,
    epoch: int = 0,
    name: str = "a",
    stage: str = "pretrain",
) -> tuple[Path, dict[str, Any]]:
    """Run a whole training stage; returns its output folder and statistics."""
    attempt = new_attempt(root, name, epoch, stage)
    statistics = train(
        training,
        MODEL,
        Folder.at(shards),
        Folder.at(initial) if initial else None,
        attempt,
        layout,
        progress or NoProgress(),
    )
    return attempt.output, statistics


def trace(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file without their timings."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("seconds", "tokens_per_second", "compute")} for row in rows]


def published(folder: Path) -> list[Path]:
    """Published checkpoints in a folder of checkpoints on files, oldest first."""
    return [folder / name for name in checkpoint.published(Folder.at(folder.parent))]


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint on files, after checking everything in it."""
    return dict(checkpoint.verify(Folder.at(path.parent), path.name).manifest)
