"""Training that moves to other shards at a step: resumed around the move, and grown out of a run without it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from train_helpers import TRAINING, placement, published, trace, verify, write_shards
from train_ranks import job, on_ranks

from illada.artifacts import Folder
from illada.train.inherit import inherit
from illada.train.job import Job

MOVE = 12
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Those of a snapshot and of the next."""
    root = tmp_path_factory.mktemp("data")
    return write_shards(root / "one"), write_shards(root / "two", documents=100)


def task(work: Path, shards: Pair, *steps: int, **changes: Any) -> Job:
    """Train on the first shards, from each of `steps` on on the second."""
    layout = placement(checkpoint_steps=5, keep_checkpoints=9)
    made = job(work, shards[0], layout, training=TRAINING.model_copy(update=changes))
    return dataclasses.replace(made, moves=tuple((step, Folder.at(shards[1])) for step in steps))


@pytest.fixture(scope="module")
def moved(shards: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an undisturbed run with a move."""
    work = tmp_path_factory.mktemp("moved")
    on_ranks(task(work, shards, MOVE))
    return work


@pytest.fixture(scope="module")
def plain(shards: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of the run without it."""
    work = tmp_path_factory.mktemp("plain")
    on_ranks(task(work, shards))
    return work


def events(work: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def test_a_move_is_recorded_and_changes_what_follows(shards: Pair, moved: Path, plain: Path) -> None:
    one, other = trace(moved / "metrics.jsonl"), trace(plain / "metrics.jsonl")
    assert one[:MOVE] == other[:MOVE]
    assert all(a["loss"] != b["loss"] for a, b in zip(one[MOVE:], other[MOVE:], strict=True))
    (event,) = events(moved, "move")
    assert event["step"] == MOVE
    assert not events(plain, "move")
    states = [verify(path)["loader"] for path in published(moved / "checkpoints")]
    assert [(state["step"], state.get("moves")) for state in states] == [
        (5, None), (10, None), (15, [[MOVE, event["data"]]]), (20, [[MOVE, event["data"]]]),
    ]  # fmt: skip


@pytest.mark.parametrize("step", [10, 15])
def test_resumed_from_before_and_after_the_move(step: int, shards: Pair, moved: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(moved, work)
    for path in published(work / "checkpoints"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    on_ranks(task(work, shards, MOVE))
    assert trace(work / "metrics.jsonl") == trace(moved / "metrics.jsonl")
    assert events(work, "start")[-1]["step"] == step


def test_grown_out_of_the_run_without_the_move(shards: Pair, moved: Path, plain: Path, tmp_path: Path) -> None:
    """The newest checkpoint up to the move is taken over, and the rest is as if trained from the start."""
    grown = task(tmp_path / "grown", shards, MOVE)
    inherit(grown, grown.loader(), [Folder.at(tmp_path / "nothing"), Folder.at(plain)], tmp_path)
    (taken,) = published(tmp_path / "grown" / "checkpoints")
    assert taken.name == "step-00000010"
    (event,) = events(tmp_path / "grown", "inherited")
    assert event["step"] == 10
    on_ranks(grown)
    assert events(tmp_path / "grown", "start")[-1]["resumed_from"] == taken.name
    assert trace(tmp_path / "grown" / "metrics.jsonl") == trace(moved / "metrics.jsonl")
    assert len(published(plain / "checkpoints")) == 4, "the other run keeps what it had"


def test_what_does_not_fit_is_not_taken_over(shards: Pair, moved: Path, plain: Path, tmp_path: Path) -> None:
    for name, other, source in (
        ("early", task(tmp_path / "early", shards, 3), plain),  # every checkpoint is from after the move
        ("seed", task(tmp_path / "seed", shards, MOVE, seed=9), plain),
        ("without", task(tmp_path / "without", (shards[1], shards[0]), MOVE), moved),
    ):
        inherit(other, other.loader(), [Folder.at(source)], tmp_path)
        assert not published(tmp_path / name / "checkpoints")
    damaged = tmp_path / "damaged"
    shutil.copytree(plain, damaged)
    (victim,) = (damaged / "checkpoints" / "step-00000010").glob("*.safetensors")
    victim.write_bytes(victim.read_bytes()[:-1])
    other = task(tmp_path / "older", shards, MOVE)
    inherit(other, other.loader(), [Folder.at(damaged)], tmp_path)
    assert [path.name for path in published(tmp_path / "older" / "checkpoints")] == ["step-00000005"]
