"""Checkpoint folders: atomic publication, verification with fallback, fencing, keep-last-k."""

from __future__ import annotations

import json
import pickle
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from train_helpers import MODEL

from illada.artifacts import ArtifactError, Folder, StaleDriverError, check_fence, claim
from illada.train import checkpoint
from illada.train.checkpoint import CheckpointError, Stored
from illada.train.shards import LoadCommon


@pytest.fixture(params=["files", "s3"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A claimed work folder, on files and in a bucket."""
    work = Folder.at(request.getfixturevalue("s3_url") + "/work" if request.param == "s3" else tmp_path / "work")
    claim(work, 0)
    return work


def begin(work: Folder, step: int) -> checkpoint.Draft:
    return checkpoint.begin(work, step, Path(tempfile.mkdtemp()), uuid.uuid4().hex)


def publish(work: Folder, step: int, keep: int = 9, epoch: int = 0, **manifest: Any) -> Stored:
    draft = begin(work, step)
    (draft.path / "a.bin").write_bytes(b"weights %d" % step)
    (draft.path / "b.json").write_text("{}")
    return checkpoint.publish(draft, {"step": step, "epoch": epoch, **manifest}, {}, keep)


def events(work: Folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in work.read_lines("events.jsonl")]


def test_newest_is_found_and_old_ones_are_removed(work: Folder) -> None:
    for step in (5, 10, 100):
        publish(work, step, keep=2)
    assert checkpoint.published(work) == ["step-00000010", "step-00000100"]
    found = checkpoint.latest(work, epoch=0)
    assert (found.step, found.rejected) == (100, [])
    assert found.stored is not None
    assert set(found.stored.manifest["files"]) == {"a.bin", "b.json"}
    assert found.stored.fetch("a.bin").read_bytes() == b"weights 100"
    assert len(work.names("checkpoints/")) == 6, "two files and the manifest of each"


def test_nothing_there(work: Folder) -> None:
    assert checkpoint.latest(work, epoch=0).stored is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_damage_falls_back_and_names_the_file(work: Folder, damage: str) -> None:
    publish(work, 1)
    bad = publish(work, 2)
    where, name = (bad.folder, "a.bin")
    if damage == "manifest":
        where, name = work / checkpoint.FOLDER / "step-00000002", checkpoint.MANIFEST
    content = where.read_bytes(name)
    if damage == "remove":
        where.delete(name)
    else:
        where.write(name, {"flip": b"W" + content[1:], "truncate": content[:-1], "manifest": content[:20]}[damage])
    if damage == "flip" and work.path is None:  # what has its size is found damaged when it is fetched
        assert checkpoint.find(work, epoch=0).step == 2
        with pytest.raises(ArtifactError, match=f"{where}/{name}: what was downloaded has another sha256"):
            bad.fetch(name)
        checkpoint.reject(work, bad.name, "its bytes differ")
        assert checkpoint.find(work, epoch=0).step == 1
    else:
        found = checkpoint.find(work, epoch=0)
        assert found.step == 1
        assert f"{where}/{name}" in found.rejected[0]
        (event,) = events(work)
        assert event["event"] == "fallback" and f"{where}/{name}" in event["reason"]
    publish(work, 2)  # the place is free again
    assert checkpoint.latest(work, epoch=0).step == 2


def test_nothing_but_damage_is_an_error_each_time(work: Folder) -> None:
    """A training of weeks does not begin again by itself."""
    for step in (1, 2):
        folder = publish(work, step).folder
        content = folder.read_bytes("a.bin")
        folder.write("a.bin", content[:-1])
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"every checkpoint is damaged \(.*a\.bin: 8 bytes.*a\.bin: 8 bytes"
        ) as error:
            checkpoint.find(work, epoch=0)
        assert str(work / checkpoint.FOLDER) in str(error.value) and "from step 0" in str(error.value)
    folder.write("a.bin", content)
    assert checkpoint.find(work, epoch=0).step == 2
    checkpoint.reject(work, "step-00000002", "found when it was read")
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged \(found when it was read\)"):
        checkpoint.reject(work, "step-00000001", "found when it was read")


def test_a_half_written_one_is_ignored_and_cleaned_up(work: Folder) -> None:
    publish(work, 1)
    draft = begin(work, 2)
    (draft.path / "a.bin").write_bytes(b"half")
    draft.put("a.bin", "0" * 64)
    assert len(work.names("checkpoints/")) == 4
    assert checkpoint.latest(work, epoch=0).step == 1
    publish(work, 2)
    assert checkpoint.published(work) == ["step-00000001", "step-00000002"]
    assert len(work.names("checkpoints/")) == 6


def test_a_stale_driver_can_neither_publish_nor_go_on(work: Folder) -> None:
    claim(work, 3)
    with pytest.raises(StaleDriverError, match="epoch 3"):
        publish(work, 1, epoch=2)
    publish(work, 1, epoch=3)
    with pytest.raises(StaleDriverError, match="epoch 3"):
        checkpoint.latest(work, epoch=2)
    with pytest.raises(StaleDriverError, match="taken over"):
        claim(work, 2)


def test_work_of_a_published_stage_is_fenced(work: Folder) -> None:
    work.delete("epoch.json")
    with pytest.raises(StaleDriverError, match="published"):
        check_fence(work, 0)


def test_the_same_step_twice(work: Folder) -> None:
    publish(work, 1)
    with pytest.raises(StaleDriverError, match="another driver"):
        publish(work, 1)
    assert checkpoint.latest(work, epoch=0).step == 1


def test_a_newer_format_is_refused(work: Folder) -> None:
    publish(work, 1)
    folder = work / checkpoint.FOLDER / "step-00000001"
    folder.write_json(checkpoint.MANIFEST, folder.read_json(checkpoint.MANIFEST) | {"format": 99})
    with pytest.raises(CheckpointError, match="newer illada"):
        checkpoint.latest(work, epoch=0)


def test_weights_of_another_model_are_refused(work: Folder) -> None:
    stored = publish(work, 1, model=MODEL.identity())
    checkpoint.require_model(stored, MODEL)
    with pytest.raises(CheckpointError, match=r"layers: 2 there, 3 here"):
        checkpoint.require_model(stored, MODEL.model_copy(update={"layers": 3}))


def test_reading_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"optimizer": Evil()}, tmp_path / "common.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        LoadCommon().load_common(tmp_path)
    assert not (tmp_path / "ran").exists()
