"""Runs that go on from checkpoints, under the layout that wrote them or another one; see also test_layout_table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from train_helpers import MODEL, TRAINING, placement, published, trace
from train_ranks import job, on_ranks

from illada.config import Schedule, Training
from illada.model.weights import hf_tensor_names, initial_tensor
from illada.train.checkpoint import FOLDER
from illada.train.export import export_weights
from illada.train.job import Job

FOUR_LAYERS = MODEL.model_copy(update={"layers": 4})  # for the virtual stages of a pipeline
LAYOUTS: list[dict[str, int]] = [
    {"pipeline": 2},
    {"tensor": 2, "pipeline": 2},
    {"data": 2},
    {"context": 2, "pipeline": 2, "virtual": 2},
]


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an uninterrupted run on one rank."""
    work = tmp_path_factory.mktemp("reference")
    on_ranks(job(work, shards, placement(keep_checkpoints=9), model=FOUR_LAYERS))
    return work


def assert_same_training(work: Path, reference: Path) -> None:
    """Equal but for the order in which float32 sums are taken."""
    rows, expected = trace(work / "metrics.jsonl"), trace(reference / "metrics.jsonl")
    assert len(rows) == len(expected) == TRAINING.steps
    for row, other in zip(rows, expected, strict=True):
        for exact in ("step", "epoch", "lr", "masked_fraction", "tokens", "positions_by_noise"):
            assert row[exact] == other[exact]
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        for name in ("by_noise", "loss_by_noise"):
            assert [value is None for value in row[name]] == [value is None for value in other[name]]
            values, others = ([value for value in each[name] if value is not None] for each in (row, other))
            assert values == pytest.approx(others, rel=1e-5)


def undo_last_checkpoint(work: Path) -> None:
    """As if the run had been killed between the checkpoints of steps 10 and 20."""
    last = published(work / FOLDER)[-1]
    assert last.name == "step-00000020"
    shutil.rmtree(last)


@pytest.mark.parametrize("ranks", [{}, *(pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS)], ids=str)
def test_resume_repeats_every_bit(ranks: dict[str, int], reference: Path, shards: Path, tmp_path: Path) -> None:
    task = job(tmp_path, shards, placement(**ranks), model=FOUR_LAYERS)
    if not ranks:
        shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    else:
        on_ranks(task)
    whole, manifest = trace(tmp_path / "metrics.jsonl"), files(tmp_path)
    undo_last_checkpoint(tmp_path)
    on_ranks(task)
    assert trace(tmp_path / "metrics.jsonl") == whole
    assert files(tmp_path) == manifest


def files(work: Path) -> dict[str, object]:
    """Checksums of the newest checkpoint."""
    path = published(work / FOLDER)[-1]
    assert path.name == "step-00000020"
    found: dict[str, object] = json.loads((path / "checkpoint.json").read_text())["files"]
    return found


MOVES: list[tuple[dict[str, int], dict[str, int]]] = [
    ({}, {"tensor": 2, "pipeline": 2}),
    ({"data": 2}, {"tensor": 2}),
    ({"tensor": 2, "context": 2}, {"pipeline": 2, "virtual": 2, "data": 2}),
    ({"pipeline": 4}, {"context": 4}),
]


@pytest.mark.parametrize(
    ("before", "after"),
    [({"pipeline": 2, "virtual": 2}, {"context": 2}), *(pytest.param(*move, marks=pytest.mark.slow) for move in MOVES)],
    ids=str,
)
def test_a_checkpoint_goes_on_under_another_layout(
    before: dict[str, int], after: dict[str, int], reference: Path, shards: Path, tmp_path: Path
) -> None:
    on_ranks(job(tmp_path, shards, placement(**before), model=FOUR_LAYERS))
    undo_last_checkpoint(tmp_path)
    on_ranks(job(tmp_path, shards, placement(**after), model=FOUR_LAYERS))
    assert_same_training(tmp_path, reference)


def note_reductions(task: Job, folder: str) -> None:
    """Train, and write down in which order gradients begin to be reduced and are waited for."""
    import torch.distributed as dist
    from megatron.core.distributed import DistributedDataParallel
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup

    from illada.train.loop import run

    seen: list[str] = []
    begin, wait = _ParamAndGradBucketGroup.start_grad_sync, DistributedDataParallel.finish_grad_sync

    def noted_begin(group: _ParamAndGradBucketGroup, *arguments: Any, **options: Any) -> None:
        begin(group, *arguments, **options)
        seen.append("begun" if group.grad_reduce_handle is not None else "done")

    def noted_wait(ddp: DistributedDataParallel, *arguments: Any, **options: Any) -> None:
        seen.append("wait")
        wait(ddp, *arguments, **options)

    _ParamAndGradBucketGroup.start_grad_sync = noted_begin
    DistributedDataParallel.finish_grad_sync = noted_wait
    run(task)
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(seen))


def test_gradients_are_reduced_while_the_backward_pass_goes_on(shards: Path, tmp_path: Path) -> None:
    """From the second step on; in the first one Megatron learns when a bucket is complete."""
    training = TRAINING.model_copy(update={"steps": 3})
    task = job(tmp_path / "work", shards, placement(data=2), training=training)
    on_ranks(task, note_reductions, str(tmp_path))
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen == ["wait", "begun", *["begun", "wait"] * 2]


def test_export_gives_back_what_was_put_in(shards: Path, tmp_path: Path) -> None:
    """With a learning rate that float32 cannot see, training under 2 x 2 ranks leaves the weights as they were.

    Ranks of two virtual pipeline stages each.
    """
    unseen = Schedule(peak=1e-30, minimum=0, warmup_steps=0, decay="linear", decay_fraction=0)
    training = Training(window=32, global_batch=8, steps=1, schedule=unseen, seed=7)
    on_ranks(job(tmp_path, shards, placement(2, 2, virtual=2), training=training, model=FOUR_LAYERS))
    (path,) = published(tmp_path / FOLDER)
    for _ in range(2):  # nothing of the first call disturbs the second
        weights = export_weights(path, FOUR_LAYERS)
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == hf_tensor_names(FOUR_LAYERS)
        for name, tensor in weights.items():
            assert tensor.equal(initial_tensor(FOUR_LAYERS, name, seed=7)), name


def test_fine_tuning_starts_from_weights_alone(reference: Path, shards: Path, tmp_path: Path) -> None:
    """The first batch is that of the reference run, the weights are better; the optimizer begins anew."""
    initial = published(reference / FOLDER)[-1]
    again = [tmp_path / name for name in ("one", "two")]
    short = TRAINING.model_copy(update={"steps": 2})
    for work, layout in zip(again, (placement(), placement(2)), strict=True):
        on_ranks(job(work, shards, layout, initial=initial, training=short, model=FOUR_LAYERS))
    one, two = (trace(work / "metrics.jsonl") for work in again)
    start = trace(reference / "metrics.jsonl")
    assert one[0]["loss"] < 0.999 * start[0]["loss"]  # same batch as the reference's first step, better weights
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=1e-5)
