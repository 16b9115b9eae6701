"""The autoregressive objective under the trainer: the same under every layout, from the loss that transformers has."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from train_helpers import MODEL, TRAINING, placement, published, trace
from train_ranks import job, on_ranks
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from illada.config import Objective
from illada.data.tokenizer import BOS_ID
from illada.model.weights import hf_tensor_names, initial_tensor
from illada.release.export import configuration
from illada.train.checkpoint import FOLDER
from illada.train.job import Job

CAUSAL = MODEL.model_copy(update={"attention": "causal", "layers": 4})
NEXT = TRAINING.model_copy(update={"objective": Objective(kind="autoregressive", isolate_documents=True)})
LAYOUTS: list[dict[str, int]] = [
    {"tensor": 2},
    {"pipeline": 2},
    {"tensor": 2, "pipeline": 2},
    {"pipeline": 2, "virtual": 2, "data": 2},
]
SLOW = [pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS[2:]]


def task(work: Path, shards: Path, **layout: int) -> Job:
    return job(work, shards, placement(**layout), training=NEXT, model=CAUSAL)


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an uninterrupted run on one rank."""
    work = tmp_path_factory.mktemp("autoregressive")
    on_ranks(task(work, shards))
    return work


def test_windows_and_segments_are_the_masked_objective_s(shards: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"objective": Objective(isolate_documents=True)})
    loader, masked = task(tmp_path, shards).loader(), job(tmp_path, shards, placement(), training=training).loader()
    for step in (0, 7, 30):
        batch, other = loader.batch(step, 0, 8), masked.batch(step, 0, 8)
        for name in ("tokens", "window_ids", "epochs", "boundaries"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(other, name))
        assert batch.mask.all() and (batch.weight == 1).all()
    assert loader.batch(0, 0, 8).boundaries.shape[1] > 3
    with pytest.raises(ValueError, match="objective"):
        loader.check(masked.state(3))


def test_the_first_loss_is_that_of_transformers(alone: Path, shards: Path) -> None:
    llama = LlamaForCausalLM(LlamaConfig(**configuration(CAUSAL))).double()
    llama.load_state_dict({n: initial_tensor(CAUSAL, n, NEXT.seed) for n in hf_tensor_names(CAUSAL)}, strict=False)
    batch, total = task(alone, shards).loader().batch(0, 0, 8), 0.0
    for row, ends in zip(batch.tokens, batch.boundaries, strict=True):
        for segment in (row[a:b] for a, b in itertools.pairwise(ends)):
            if len(segment):
                ids = torch.tensor([[BOS_ID, *segment]])
                with torch.no_grad():
                    total += float(llama(ids, labels=ids).loss) * len(segment)
    rows = trace(alone / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(total / batch.tokens.size, rel=1e-5)
    assert rows[0]["masked_fraction"] == 1.0 and rows[0]["loss_by_noise"] == [None] * 10
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


@pytest.mark.parametrize("layout", [*LAYOUTS[:2], *SLOW], ids=str)
def test_trace_is_that_of_one_rank(layout: dict[str, int], alone: Path, shards: Path, tmp_path: Path) -> None:
    on_ranks(task(tmp_path, shards, **layout))
    rows, expected = trace(tmp_path / "metrics.jsonl"), trace(alone / "metrics.jsonl")
    assert len(rows) == len(expected) == NEXT.steps
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_resume_repeats_every_bit(alone: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(published(tmp_path / FOLDER)[-1])
    on_ranks(task(tmp_path, shards))
    assert trace(tmp_path / "metrics.jsonl") == trace(alone / "metrics.jsonl")
