"""What the loop does when a step or a rank goes wrong, and in bfloat16. Ranks are separate processes without Ray."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from train_helpers import TRAINING, placement, published, trace, verify, write_shards
from train_ranks import job, on_ranks, wait_for_checkpoints

from illada.artifacts import claim
from illada.config import Guard
from illada.train import checkpoint, loop, saver, stepper
from illada.train.checkpoint import FOLDER
from illada.train.job import Job

BFLOAT16 = TRAINING.model_copy(update={"dtype": "bfloat16"})


def events(work: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def poisoned(task: Job, steps: list[int], factor: float = float("nan"), start: int = 0) -> None:
    """The loop from `start` on, with a loss times `factor` in one micro-batch of the given steps."""
    sound, calls = stepper.weighted_loss, itertools.count()
    per_step = task.training.global_batch // (task.placement.data * task.placement.micro_batch)

    def weighted_loss(cross_entropy: torch.Tensor, weight: torch.Tensor, tokens: int) -> torch.Tensor:
        step, micro_batch = divmod(next(calls), per_step)
        return sound(cross_entropy, weight, tokens) * (factor if start + step in steps and micro_batch == 1 else 1.0)

    stepper.weighted_loss = weighted_loss  # this process trains nothing else
    loop.run(task)


def test_a_gradient_that_is_not_finite_changes_nothing(shards: Path, tmp_path: Path) -> None:
    on_ranks(job(tmp_path, shards, placement(2)), poisoned, [3])
    rows = trace(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("skipped")] == [4]
    assert rows[3]["grad_norm"] is None
    assert len(rows) == TRAINING.steps and all(row["loss"] is not None for row in rows)
    (event,) = events(tmp_path, "skipped")
    assert event["step"] == 4
    # had the moments or weights taken a NaN, nothing after it could be finite
    assert rows[-1]["loss"] < 1.1 * rows[0]["loss"]


def test_divergence_stops_with_the_windows(shards: Path, tmp_path: Path) -> None:
    task = job(tmp_path, shards, placement())
    bad = list(range(5, 20))
    told = rf"5 updates .*step 10 \(not finite\): windows \d+,.*inspect {shards} --windows"
    with pytest.raises(Exception, match=told):
        on_ranks(task, poisoned, bad)
    rows = trace(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("skipped")] == [6, 7, 8, 9, 10]
    assert published(tmp_path / FOLDER) == []


SPIKE = TRAINING.model_copy(update={"guard": Guard(spike=4.0, history=10)})
LAYOUTS = [(2, 1, 1), *(pytest.param(*layout, marks=pytest.mark.slow) for layout in ((1, 1, 2), (1, 2, 1)))]


@pytest.mark.parametrize(("tensor", "pipeline", "data"), LAYOUTS)
def test_a_spike_is_left_out_on_every_rank_and_again_after_a_resume(
    tensor: int, pipeline: int, data: int, shards: Path, tmp_path: Path
) -> None:
    task = job(tmp_path, shards, placement(tensor, pipeline, data), training=SPIKE)
    on_ranks(task, poisoned, [14], 1e4)
    rows = trace(tmp_path / "metrics.jsonl")
    assert {row["step"]: row["skipped"] for row in rows if "skipped" in row} == {15: "spike"}
    (event,) = events(tmp_path, "skipped")
    assert event["reason"] == "spike" and event["grad_norm"] == rows[14]["grad_norm"] > 4 * rows[13]["grad_norm"]
    windows = task.loader().batch(14, 0, 8).window_ids.tolist()
    assert event["windows"] == windows and len(set(event["suspects"]) & set(windows)) == 4
    files = verify(published(tmp_path / FOLDER)[-1])["files"]
    shutil.rmtree(published(tmp_path / FOLDER)[-1])
    on_ranks(task, poisoned, [14], 1e4, 10)  # by the norms in the checkpoint: too few follow it
    assert trace(tmp_path / "metrics.jsonl") == rows
    assert verify(published(tmp_path / FOLDER)[-1])["files"] == files


def overtaken(task: Job) -> None:
    """The loop, during which a newer driver claims the stage at step 13."""
    sound = stepper.step_row

    def step_row(*arguments: Any, step: int, **figures: Any) -> dict[str, Any]:
        if step == 13:
            claim(task.work, 1)
        return sound(*arguments, step=step, **figures)

    stepper.step_row = step_row  # type: ignore[assignment]
    wait_for_checkpoints()
    loop.run(task)


def test_a_stale_driver_writes_nothing_more(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="fencing epoch 1 has taken over"):
        on_ranks(job(tmp_path, shards, placement()), overtaken)
    assert [row["step"] for row in trace(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    assert [path.name for path in published(tmp_path / FOLDER)] == ["step-00000010"]


def killed_in(task: Job, place: str) -> None:
    """The loop, whose rank 0 is killed while it writes the checkpoint of step 20."""
    module, name = {"publish": (saver, "publish"), "write_json": (checkpoint, "write_json")}[place]
    sound: Callable[..., Any] = getattr(module, name)

    def replaced(target: checkpoint.Draft | Path, *arguments: Any) -> Any:
        if "step-00000020" in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(target, *arguments)

    setattr(module, name, replaced)
    loop.run(task)


@pytest.mark.faults
@pytest.mark.parametrize("place", ["publish", "write_json"])
def test_killed_during_a_checkpoint_write(place: str, reference: Path, shards: Path, tmp_path: Path) -> None:
    """Before the checksums, and before the manifest: the write is ignored, the run goes on from the one before."""
    task = job(tmp_path, shards, placement(2))
    with pytest.raises(Exception, match=r"SIGKILL|terminated|closed"):
        on_ranks(task, killed_in, place)
    assert [path.name for path in (tmp_path / FOLDER).iterdir() if path.name.startswith(".tmp")]
    on_ranks(task)
    assert events(tmp_path, "start")[-1]["resumed_from"] == "step-00000010"
    assert trace(tmp_path / "metrics.jsonl") == trace(reference / "metrics.jsonl")
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["step-00000010", "step-00000020"]
    mine, theirs = (verify(published(work / FOLDER)[-1])["files"] for work in (tmp_path, reference))
    assert mine == theirs


@pytest.mark.parametrize("damage", ["byte", pytest.param("end", marks=pytest.mark.slow), "file"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, reference: Path, shards: Path, tmp_path: Path) -> None:
    """Another byte, a truncated file, a rank's file gone: the one before is used and the run ends as undisturbed."""
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    bad = published(tmp_path / FOLDER)[-1] / "rank-00001.safetensors"
    if damage == "file":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:-1] + (b"?" if damage == "byte" else b""))
    on_ranks(job(tmp_path, shards, placement(2)))
    (event,) = events(tmp_path, "fallback")
    assert event["step"] == 10 and str(bad) in event["reason"]
    assert trace(tmp_path / "metrics.jsonl") == trace(reference / "metrics.jsonl")


def test_other_data_is_refused(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "work")
    other = write_shards(tmp_path / "other", documents=50)
    with pytest.raises(Exception, match=r"belongs to another training run.*data:"):
        on_ranks(job(tmp_path / "work", other, placement(2)))


def test_bfloat16(reference: Path, shards: Path, tmp_path: Path) -> None:
    """Weights and activations in bfloat16, moments and main weights in float32; near float32, resumed to the bit."""
    task = job(tmp_path, shards, placement(2), training=BFLOAT16)
    on_ranks(task)
    rows, exact = trace(tmp_path / "metrics.jsonl"), trace(reference / "metrics.jsonl")
    assert [row["loss"] for row in rows] != [row["loss"] for row in exact]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in exact], rel=0.02)
    last = published(tmp_path / FOLDER)[-1]
    types: dict[str, set[torch.dtype]] = {"model": set(), "moments": set()}
    with safe_open(last / "rank-00000.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            types["moments" if name.startswith("optimizer.") else "model"].add(file.get_tensor(name).dtype)
    assert types == {"model": {torch.bfloat16}, "moments": {torch.float32}}
    files = verify(last)["files"]
    shutil.rmtree(last)
    on_ranks(task)
    assert trace(tmp_path / "metrics.jsonl") == rows
    assert verify(published(tmp_path / FOLDER)[-1])["files"] == files
