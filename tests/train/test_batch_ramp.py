"""Training with a batch-size ramp: the same under other layouts, and resumed in the middle of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from train_helpers import TRAINING, WINDOW, placement, published, trace
from train_ranks import job, on_ranks

from illada.config import BatchStage
from illada.train.checkpoint import FOLDER

RAMP = tuple(BatchStage(batch=batch, until_tokens=tokens) for batch, tokens in ((2, 256), (4, 900)))
RAMPED = TRAINING.model_copy(update={"batch_ramp": RAMP, "steps": 12})
SIZES = [2] * 4 + [4] * 6 + [8] * 2


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an uninterrupted run on one rank."""
    work = tmp_path_factory.mktemp("ramped")
    on_ranks(job(work, shards, placement(checkpoint_steps=6), training=RAMPED))
    return work


def test_tokens_are_those_of_the_batches(reference: Path) -> None:
    rows = trace(reference / "metrics.jsonl")
    assert [row["tokens"] for row in rows] == [WINDOW * sum(SIZES[: step + 1]) for step in range(12)]
    assert [sum(row["positions_by_noise"]) for row in rows] == [WINDOW * size for size in SIZES]


@pytest.mark.parametrize("layout", [(1, 1, 2), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_trace_is_that_of_one_rank(layout: tuple[int, int, int], reference: Path, shards: Path, tmp_path: Path) -> None:
    on_ranks(job(tmp_path, shards, placement(*layout, micro_batch=1), training=RAMPED))
    rows, expected = trace(tmp_path / "metrics.jsonl"), trace(reference / "metrics.jsonl")
    assert len(rows) == len(expected) == 12
    for row, other in zip(rows, expected, strict=True):
        assert (row["tokens"], row["masked_fraction"]) == (other["tokens"], other["masked_fraction"])
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_resume_repeats_every_bit(reference: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    last = published(tmp_path / FOLDER)[-1]
    assert last.name == "step-00000012"
    shutil.rmtree(last)
    on_ranks(job(tmp_path, shards, placement(checkpoint_steps=6), training=RAMPED))
    assert trace(tmp_path / "metrics.jsonl") == trace(reference / "metrics.jsonl")
