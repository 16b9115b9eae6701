"""How long training stands still for a checkpoint, against writing it while training waits, on the model of a workflow.

The ranks of --config's pretraining train on random tokens, three times a round: without checkpoints, with those of the
product, and with each finished before the next step. Standing still is what rank 0 spends in taking and publishing a
checkpoint; the first one of a run, which also finds out who writes what, is told apart. Ranks share the processors with
the threads that write, so the wall time of a run tells the rest.

    python benchmarks/checkpoints.py --to out/bench/checkpoints.json
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from illada.artifacts import Folder, claim, write_json
from illada.config import WorkflowConfig, load_config
from illada.config.model import ModelConfig
from illada.data.shards import ShardWriter, document_batch
from illada.train.job import Job
from illada.train.metrics import METRICS, read_rows
from illada.train.process import prepare

MODES = ("none", "asynchronous", "synchronous")
_TOKENS = 400_000


def main() -> None:
    """Measure, print one JSON object; also write it to --to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/workflows/demo.yaml"))
    for name, default in (("steps", 120), ("every", 10), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    config = load_config(options.config, WorkflowConfig)
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _shards(root / "shards", config.model)
        training = config.pretrain.model_copy(update={"steps": options.steps})
        for number in range(options.rounds):
            for mode in MODES:
                every = options.steps + 1 if mode == "none" else options.every
                job = Job(
                    training=training,
                    model=config.model,
                    placement=config.placement.pretrain.model_copy(update={"checkpoint_steps": every}),
                    shards=Folder.at(root / "shards"),
                    initial=None,
                    work=Folder.at(root / f"{mode}-{number}"),
                    domain="pretrain",
                    epoch=0,
                )
                runs[mode].append(_run(job, mode))
    result = {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        **{name: value for name, value in vars(options).items() if name not in ("to", "config")},
        "ranks": config.placement.pretrain.ranks,
        **{mode: _summary(found) for mode, found in runs.items()},
    }
    step = result["none"]["step_seconds"]
    for mode in MODES[1:]:
        result[mode]["stall_over_step"] = result[mode]["stall_seconds"] / step
    result["synchronous_over_asynchronous"] = (
        result["synchronous"]["stall_seconds"] / result["asynchronous"]["stall_seconds"]
    )
    print(json.dumps(result, indent=2))
    if options.to:
        write_json(options.to, result)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all rounds; a run's last checkpoint is waited for, and is not counted."""
    found: dict[str, Any] = {
        "step_seconds": statistics.median(seconds for run in runs for seconds in run["steps"]),
        "wall_seconds": [run["wall"] for run in runs],
    }
    if later := [seconds for run in runs for seconds in run["stalls"][1:-1]]:
        found["stall_seconds"] = statistics.median(later)
        found["first_stall_seconds"] = statistics.median(run["stalls"][0] for run in runs)
        found["bytes"] = runs[0]["bytes"]
    return found


def _run(job: Job, mode: str) -> dict[str, Any]:
    """Train in processes of their own; returns what rank 0 found."""
    work = Path(job.work.url)
    work.mkdir()
    claim(job.work, 0)
    multiprocessing.start_processes(_rank, (job.to_json(), mode), nprocs=job.placement.ranks, start_method="spawn")
    found: dict[str, Any] = json.loads((work / "found.json").read_text())
    return found


def _rank(rank: int, task: dict[str, Any], mode: str) -> None:
    job = Job.from_json(task)
    prepare(1)
    work = Path(job.work.url)
    dist.init_process_group("gloo", init_method=f"file://{work}/store", rank=rank, world_size=job.placement.ranks)
    from illada.train.loop import run
    from illada.train.saver import Saver

    stalls: list[float] = []
    begin, publish = Saver.begin, Saver.publish

    @functools.wraps(begin)
    def begun(self: Saver, manifest: Any) -> None:
        started = time.perf_counter()
        begin(self, manifest)
        if mode == "synchronous":
            self.finish()
        stalls.append(time.perf_counter() - started)

    @functools.wraps(publish)
    def published(self: Saver, digests: Any) -> None:
        started = time.perf_counter()
        publish(self, digests)
        if mode == "asynchronous":
            stalls[-1] += time.perf_counter() - started

    Saver.begin, Saver.publish = begun, published  # type: ignore[method-assign]
    started = time.perf_counter()
    run(job)
    wall = time.perf_counter() - started
    if rank == 0:
        events = [json.loads(line) for line in job.work.read_lines("events.jsonl")]
        sizes = [event["bytes"] for event in events if event["event"] == "checkpoint"]
        steps = [row["seconds"] for row in read_rows(job.work, METRICS)[1:]]
        write_json(work / "found.json", {"steps": steps, "wall": wall, "stalls": stalls, "bytes": sizes[-1]})
    dist.destroy_process_group()


def _shards(folder: Path, model: ModelConfig) -> None:
    folder.mkdir()
    ids = np.random.default_rng(0).integers(7, model.vocab_size, size=_TOKENS)
    writer = ShardWriter(folder, vocab_size=model.vocab_size, shard_tokens=_TOKENS)
    documents = np.array_split(ids, _TOKENS // 500)
    names = [str(number) for number in range(len(documents))]
    writer.add(
        document_batch(
            documents,
            ids=names,
            sources=["random"] * len(names),
            languages=["en"] * len(names),
            sizes=[len(document) for document in documents],
            dtype=np.uint16 if model.vocab_size <= 2**16 else np.uint32,
        )
    )
    writer.close()


if __name__ == "__main__":
    main()
