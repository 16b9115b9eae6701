"""Runs the training loop under a layout without Ray: ranks forked from a server that has imported Megatron once."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as torch_multiprocessing
from train_helpers import MODEL, TRAINING

from illada.artifacts import Folder, claim
from illada.config import ModelConfig, Training, TrainPlacement
from illada.train.job import Job
from illada.train.process import import_megatron, prepare

if __name__ != "__main__":
    import_megatron()
    from megatron.core import parallel_state

    from illada.train.loop import run


def job(
    work: Path,
    shards: Path,
    layout: TrainPlacement,
    *,
    training: Training = TRAINING,
    model: ModelConfig = MODEL,
    initial: Path | None = None,
    epoch: int = 0,
) -> Job:
    """A job on `work`, claimed as the driver would."""
    work.mkdir(parents=True, exist_ok=True)
    claim(Folder.at(work), epoch)
    return Job(
        training=training,
        model=model,
        placement=layout,
        shards=Folder.at(shards),
        initial=Folder.at(initial) if initial else None,
        work=Folder.at(work),
        domain="pretrain",
        epoch=epoch,
    )


def wait_for_checkpoints() -> None:
    """In a rank: each is published before training goes on, so that what ends it soon after knows which there are."""
    from illada.train.saver import Saver

    begin = Saver.begin

    def whole(self: Saver, manifest: Mapping[str, Any]) -> None:
        begin(self, manifest)
        self.finish()

    Saver.begin = whole  # type: ignore[method-assign]


def in_turn(tasks: list[Job]) -> None:
    """Run jobs whose layouts have equally many ranks, one after another in the same processes."""
    on_ranks(tasks[0], _in_turn, [task.to_json() for task in tasks])


def _in_turn(_: Job, tasks: list[dict[str, Any]]) -> None:
    for task in tasks:
        run(Job.from_json(task))
        parallel_state.destroy_model_parallel()


def on_ranks(task: Job, function: Callable[..., None] | None = None, *arguments: Any) -> None:
    """Call `function(job, *arguments)` (by default the loop) on every rank of the layout; raises when a rank raises."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["train_ranks"])
    here = str(Path(__file__).parent)  # the fork server takes its path from the environment alone
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    # The fork server may be older than a test's object store.
    store = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "ILLADA_"))}
    with tempfile.TemporaryDirectory() as folder:
        torch_multiprocessing.start_processes(
            _rank,
            (f"file://{folder}/store", store, task.to_json(), function or run, arguments),
            nprocs=task.placement.ranks,
            start_method="forkserver",
        )


def _rank(
    rank: int,
    rendezvous: str,
    environment: dict[str, str],
    task: dict[str, Any],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    prepare()
    read = Job.from_json(task)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=read.placement.ranks)
    function(read, *arguments)
    dist.barrier()
    dist.destroy_process_group()
