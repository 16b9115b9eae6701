"""Training on a mixture: killed and resumed it is the same run; its statistics tell what was planned and achieved."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from grouped_shards import write_grouped
from train_helpers import MODEL, TRAINING, new_attempt, placement, published, trace, verify
from train_ranks import job, on_ranks, wait_for_checkpoints

from illada.artifacts import Folder, NoProgress
from illada.config import ConfigError, Mixture
from illada.train import loop, stepper
from illada.train.job import Job
from illada.train.stage import train

MIXTURE = Mixture.model_validate({"sources": {"web": {"weight": 1}, "code": {"weight": 1}}, "temperature": 3})
SIZES = {("code", "python"): [1500], ("web", "en"): [4000, 2000], ("web", "fr"): [500]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grouped(tmp_path_factory.mktemp("data") / "shards", SIZES, MODEL.vocab_size)


def task(work: Path, shards: Path) -> Job:
    return dataclasses.replace(job(work, shards, placement(2)), mixture=MIXTURE)


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run whose work folder has everything, and which is not published yet."""
    root = tmp_path_factory.mktemp("undisturbed")
    on_ranks(task(root / "work", shards))
    return root


def killed(task: Job) -> None:
    """The loop, whose process is killed at step 13."""
    sound = stepper.step_row

    def step_row(*arguments: Any, step: int, **figures: Any) -> dict[str, Any]:
        if step == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(*arguments, step=step, **figures)

    stepper.step_row = step_row  # type: ignore[assignment]
    wait_for_checkpoints()
    loop.run(task)


def test_killed_and_resumed_is_the_same_run(shards: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"SIGKILL|terminated|closed"):
        on_ranks(task(tmp_path / "work", shards), killed)
    assert [path.name for path in published(tmp_path / "work" / "checkpoints")] == ["step-00000010"]
    on_ranks(task(tmp_path / "work", shards))
    assert trace(tmp_path / "work" / "metrics.jsonl") == trace(undisturbed / "work" / "metrics.jsonl")
    mine, theirs = (verify(published(root / "work" / "checkpoints")[-1]) for root in (tmp_path, undisturbed))
    assert mine["files"] == theirs["files"]
    assert mine["loader"] == theirs["loader"] and mine["loader"]["mixture"]


def publish(root: Path, shards: Path, mixture: Mixture) -> dict[str, Any]:
    where = Folder.at(shards)
    return train(TRAINING, MODEL, where, None, new_attempt(root), placement(2), NoProgress(), mixture=mixture)


def test_statistics(shards: Path, undisturbed: Path) -> None:
    rows = publish(undisturbed, shards, MIXTURE)["mixture"]
    assert [(row["source"], row["language"]) for row in rows] == list(SIZES)
    assert sum(row["achieved"] for row in rows) == 20 * 8 * 32
    assert rows[0]["planned"] == rows[0]["achieved"] == 20 * 8 * 32 // 2
    assert all(row["epochs"] == row["achieved"] / row["tokens"] for row in rows)


def test_what_is_not_possible_is_said_before_ranks_start(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.mixture: the run has 5,120 tokens, .* raise epochs"):
        publish(tmp_path, shards, MIXTURE.model_copy(update={"epochs": 0.5}))
    assert not (tmp_path / "work" / "metrics.jsonl").exists()
