"""Checkpoint folders: atomic publication, verification with fallback, fencing, keep-last-k."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from train_helpers import MODEL

from illada.train import checkpoint
from illada.train.checkpoint import CheckpointError, StaleDriverError
from illada.train.shards import LoadCommon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.claim(tmp_path, 0)
    return tmp_path / checkpoint.FOLDER


def publish(folder: Path, step: int, keep: int = 9, epoch: int = 0, **manifest: Any) -> Path:
    draft = checkpoint.begin(folder, step)
    (draft / "a.bin").write_bytes(b"weights %d" % step)
    (draft / "b.json").write_text("{}")
    return checkpoint.publish(draft, {"step": step, "epoch": epoch, **manifest}, {}, keep)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.parent / "events.jsonl").read_text().splitlines()]


def test_newest_is_found_and_old_ones_are_removed(folder: Path) -> None:
    for step in (5, 10, 100):
        publish(folder, step, keep=2)
    assert [path.name for path in checkpoint.published(folder)] == ["step-00000010", "step-00000100"]
    found = checkpoint.latest(folder, epoch=0)
    assert (found.step, found.rejected) == (100, [])
    assert set(found.manifest["files"]) == {"a.bin", "b.json"}


def test_nothing_there(folder: Path) -> None:
    assert checkpoint.latest(folder, epoch=0).path is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_damage_falls_back_and_names_the_file(folder: Path, damage: str) -> None:
    publish(folder, 1)
    bad = publish(folder, 2)
    victim = bad / (checkpoint.MANIFEST if damage == "manifest" else "a.bin")
    content = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes({"flip": b"W" + content[1:], "truncate": content[:-1], "manifest": content[:20]}[damage])
    found = checkpoint.find(folder.parent, epoch=0)
    assert found.step == 1
    assert str(victim) in found.rejected[0]
    (event,) = events(folder)
    assert event["event"] == "fallback" and str(victim) in event["reason"]
    publish(folder, 2)  # the place is free again
    assert checkpoint.latest(folder, epoch=0).step == 2


def test_a_half_written_one_is_ignored_and_cleaned_up(folder: Path) -> None:
    publish(folder, 1)
    draft = checkpoint.begin(folder, 2)
    (draft / "a.bin").write_bytes(b"half")
    assert checkpoint.latest(folder, epoch=0).step == 1
    publish(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_stale_driver_can_neither_publish_nor_go_on(folder: Path) -> None:
    checkpoint.claim(folder.parent, 3)
    with pytest.raises(StaleDriverError, match="epoch 3"):
        publish(folder, 1, epoch=2)
    publish(folder, 1, epoch=3)
    with pytest.raises(StaleDriverError, match="epoch 3"):
        checkpoint.latest(folder, epoch=2)
    with pytest.raises(StaleDriverError, match="taken over"):
        checkpoint.claim(folder.parent, 2)


def test_work_of_a_published_stage_is_fenced(folder: Path) -> None:
    (folder.parent / "epoch.json").unlink()
    with pytest.raises(StaleDriverError, match="published"):
        checkpoint.check_fence(folder.parent, 0)


def test_the_same_step_twice(folder: Path) -> None:
    publish(folder, 1)
    with pytest.raises(StaleDriverError, match="another driver"):
        publish(folder, 1)


def test_a_newer_format_is_refused(folder: Path) -> None:
    path = publish(folder, 1) / checkpoint.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="newer illada"):
        checkpoint.latest(folder, epoch=0)


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    path = publish(folder, 1, model=MODEL.identity())
    checkpoint.require_model(path, MODEL)
    with pytest.raises(CheckpointError, match=r"layers: 2 there, 3 here"):
        checkpoint.require_model(path, MODEL.model_copy(update={"layers": 3}))


def test_reading_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"optimizer": Evil()}, tmp_path / "common.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        LoadCommon().load_common(tmp_path)
    assert not (tmp_path / "ran").exists()
