"""Checkpoints beside training: what is written, when it counts, and what happens when it cannot be."""

from __future__ import annotations

import errno
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from train_helpers import placement, published, trace, verify
from train_ranks import job, on_ranks

from illada.artifacts import sha256_file
from illada.train import loop
from illada.train.checkpoint import FOLDER
from illada.train.job import Job
from illada.train.pieces import boxes, optimizer_pieces, weight_pieces
from illada.train.saver import Saver
from illada.train.state import model_state
from illada.train.tensor_file import TensorFile


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_a_range_of_a_flattened_tensor_is_these_boxes(shape: list[int], data: st.DataObject) -> None:
    count = math.prod(shape)
    first = data.draw(st.integers(0, count))
    end = data.draw(st.integers(first, count))
    numbers = torch.arange(count).reshape(shape)
    found = list(boxes(shape, first, end))
    parts = [
        numbers[tuple(slice(low, low + size) for low, size in zip(corner, sizes, strict=True))].flatten()
        for corner, sizes in found
    ]
    assert torch.cat([*parts, numbers.flatten()[:0]]).tolist() == list(range(first, end))
    assert len(found) <= 2 * len(shape) - 1


def test_a_file_is_what_its_library_reads(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).bfloat16(),
        "view": torch.randn(4, 6)[1:3],
        "odd": torch.randn(7).bfloat16(),
        "wide": torch.randn(2, 1, 3),
    }
    file = TensorFile(tensors)
    file.copy()
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.zero_()  # training goes on
    assert file.write(tmp_path / "a") == sha256_file(tmp_path / "a")
    with safe_open(tmp_path / "a", framework="pt") as read:
        assert set(read.keys()) == set(tensors)
        for name, tensor in expected.items():
            assert torch.equal(read.get_tensor(name), tensor) and read.get_tensor(name).dtype == tensor.dtype


def against_gathered(task: Job) -> None:
    """The loop, which compares its pieces with what Megatron gathers from all data-parallel ranks."""
    plan = Saver._plan

    def compared(self: Saver) -> TensorFile:
        file, optimizer = plan(self), self._wrapped.optimizer
        model = model_state(self._wrapped.modules)
        metadata = {
            "distrib_optim_sharding_type": "fully_reshardable",
            "distrib_optim_fully_reshardable_mem_efficient": False,
        }
        gathered = optimizer.sharded_state_dict(model, metadata=metadata)["param_state"]
        pieces = list(optimizer_pieces(model, optimizer))
        own = sum(piece.tensor.numel() for piece in pieces)
        whole: dict[str, torch.Tensor] = {}
        for part in _built({"model": model, "optimizer": gathered}):
            full = whole.setdefault(part.key, torch.full(part.global_shape, math.nan))
            where = zip(part.global_offset, [1] * part.prepend_axis_num + list(part.local_shape), strict=True)
            full[tuple(slice(low, low + size) for low, size in where)] = part.data.detach()
        for piece in [*weight_pieces(model), *pieces]:
            where = zip(piece.offset, piece.tensor.shape, strict=True)
            assert torch.equal(whole[piece.key][tuple(slice(low, low + size) for low, size in where)], piece.tensor), (
                piece.key
            )
        total = torch.tensor(own)
        dist.all_reduce(total)
        assert 0 < own < int(total), "each has a part"
        assert int(total) == sum(full.numel() for key, full in whole.items() if key.startswith("optimizer."))
        return file

    Saver._plan = compared  # type: ignore[method-assign]
    loop.run(task)


def _built(state: dict[str, Any]) -> list[Any]:
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import apply_factories

    apply_factories(state)
    return list(nested_values(state))


def test_each_rank_gives_its_part_of_what_megatron_would_gather(shards: Path, tmp_path: Path) -> None:
    on_ranks(job(tmp_path, shards, placement(data=2)), against_gathered)
    assert len(published(tmp_path / FOLDER)) == 2


def held_back(task: Job) -> None:
    """The loop, in which the checkpoint of step 10 is written only when step 15 is made."""
    write = TensorFile.write

    def late(self: TensorFile, path: Path) -> str:
        metrics = Path(task.work.url) / "metrics.jsonl"
        while "step-00000010" in str(path) and metrics.read_text().count("\n") < 15:
            time.sleep(0.01)
        return write(self, path)

    TensorFile.write = late  # type: ignore[method-assign]
    loop.run(task)


def test_training_goes_on_while_a_checkpoint_is_written(reference: Path, shards: Path, tmp_path: Path) -> None:
    on_ranks(job(tmp_path, shards, placement(2)), held_back)
    for mine, theirs in zip(published(tmp_path / FOLDER), published(reference / FOLDER), strict=True):
        assert verify(mine)["files"] == verify(theirs)["files"], "of the step it was taken at"
    assert trace(tmp_path / "metrics.jsonl") == trace(reference / "metrics.jsonl")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    saved = [event for event in events if event["event"] == "checkpoint"]
    assert [event["step"] for event in saved] == [10, 20]
    assert all(0 < event["stalled"] < event["seconds"] for event in saved)


def full_disk(task: Job) -> None:
    """The loop, in which rank 1 cannot write the checkpoint of step 20."""
    write = TensorFile.write

    def failing(self: TensorFile, path: Path) -> str:
        if "step-00000020" in str(path) and dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, path)

    TensorFile.write = failing  # type: ignore[method-assign]
    loop.run(task)


@pytest.mark.faults
def test_what_cannot_be_written_ends_training_and_leaves_the_one_before(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"No space left on device|closed"):
        on_ranks(job(tmp_path, shards, placement(2)), full_disk)
    assert [path.name for path in published(tmp_path / FOLDER)] == ["step-00000010"]
