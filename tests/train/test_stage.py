"""The whole stage under Ray Train: published files, interruption, failing and killed ranks, a killed driver."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from train_helpers import (
    LONG,
    MODEL,
    TRAINING,
    new_attempt,
    placement,
    published,
    run_stage,
    trace,
    verify,
    write_shards,
)
from train_ranks import job, on_ranks

from illada.artifacts import Folder, NoProgress, StageInterrupted
from illada.config import ConfigError, Schedule
from illada.train.checkpoint import FOLDER, CheckpointError
from illada.train.errors import DivergedError
from illada.train.export import export_weights
from illada.train.stage import train


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.shutdown()  # another room's may still be up
    ray.init(address="local", include_dashboard=False, num_cpus=4, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


class Watching:
    """Progress that calls `act` at the first update past `step`."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act, self.acted = step, act, False
        self.total: float | None = None
        self.seen: list[float] = []
        self.figures: dict[str, float | str] = {}

    def start(self, total: float | None, unit: str) -> None:
        self.total = total

    def update(self, done: float, **figures: float | str) -> None:
        self.seen.append(done)
        self.figures |= figures
        if done >= self.step and not self.acted:
            self.acted = True
            self.act()


def rank_processes(work: Path) -> dict[int, psutil.Process]:
    """Training processes of this work folder by rank: those whose output goes to a rank's log there."""
    found = {}
    for process in psutil.process_iter():
        try:
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
        except OSError:
            continue
        if output.parent == work / "logs":
            found[int(output.stem.removeprefix("rank-"))] = process
    return found


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def assert_as_undisturbed(output: Path, reference: Path) -> None:
    assert trace(output / "metrics.jsonl") == trace(reference / "metrics.jsonl")
    manifest = verify(output / "checkpoint")
    assert manifest["files"] == verify(published(reference / FOLDER)[-1])["files"]


def interrupt() -> None:
    raise StageInterrupted


def test_trained_and_published(reference: Path, shards: Path, tmp_path: Path) -> None:
    progress = Watching(99, lambda: None)
    output, statistics = run_stage(tmp_path, shards, placement(2), progress=progress)
    assert_as_undisturbed(output, reference)
    assert "epoch" not in verify(output / "checkpoint")
    assert (progress.total, progress.seen[-1]) == (20, 20)
    last = trace(output / "metrics.jsonl")[-1]
    assert {name: progress.figures[name] for name in ("loss", "lr", "grad_norm", "tokens")}.items() <= last.items()
    assert 0 < float(progress.figures["goodput"]) < 1 and float(progress.figures["tokens_per_second"]) > 0
    assert (statistics["steps"], statistics["tokens"], statistics["checkpoints"]) == (20, 20 * 8 * 32, [10, 20])
    assert statistics["restarts"] == statistics["skipped"] == 0
    weights = export_weights(output / "checkpoint", MODEL)
    assert statistics["parameters"] == sum(tensor.numel() for tensor in weights.values())
    # trained but not published: no rank starts, the same files come out
    again, _ = run_stage(tmp_path, shards, placement(2), name="b")
    assert len(events(tmp_path / "work", "start")) == 1
    assert_as_undisturbed(again, reference)


@pytest.mark.slow
def test_interrupted_and_resumed(long_reference: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(StageInterrupted):
        run_stage(tmp_path, shards, placement(2), training=LONG, progress=Watching(21, interrupt))
    _, alive = psutil.wait_procs(rank_processes(tmp_path / "work").values(), timeout=30)
    assert not alive
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 4:  # nothing stays reserved
        assert time.monotonic() < deadline
        time.sleep(0.1)
    newest = published(tmp_path / "work" / FOLDER)[-1].name
    assert "step-00000010" <= newest < "step-00000100"
    output, statistics = run_stage(tmp_path, shards, placement(2), training=LONG, name="b")
    assert [row.get("resumed_from") for row in events(output, "start")] == [None, newest]
    assert statistics["restarts"] == 0
    assert_as_undisturbed(output, long_reference)


@pytest.mark.slow
def test_an_error_in_a_rank_comes_out_as_itself(shards: Path, tmp_path: Path) -> None:
    mad = Schedule(peak=1e30, minimum=0, warmup_steps=0, decay="linear", decay_fraction=0)
    with pytest.raises(DivergedError, match=r"5 updates in a row had to be left out.*not finite"):
        run_stage(tmp_path, shards, placement(), training=TRAINING.model_copy(update={"schedule": mad}))
    assert len(events(tmp_path / "work", "start")) == 1  # it was not tried again
    (event,) = events(tmp_path / "work", "failed")
    assert "DivergedError" in event["reason"]


def test_what_cannot_work_is_refused_before_ranks_start(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of data x micro_batch"):
        run_stage(tmp_path / "a", shards, placement(micro_batch=3))
    small = write_shards(tmp_path / "small", documents=2)
    with pytest.raises(ValueError, match="a batch needs 8 windows"):
        run_stage(tmp_path / "b", small, placement())


def test_damage_of_every_checkpoint_is_no_new_beginning(reference: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "work")
    bad = [folder / "rank-00000.safetensors" for folder in published(tmp_path / "work" / FOLDER)]
    for file in bad:
        file.write_bytes(file.read_bytes()[:-1])
    for name in ("a", "b"):
        with pytest.raises(CheckpointError, match=f"every checkpoint is damaged.*{bad[1]}.*{bad[0]}"):
            run_stage(tmp_path, shards, placement(2), name=name)
    with pytest.raises(Exception, match=r"CheckpointError.*every checkpoint is damaged"):
        on_ranks(job(tmp_path / "work", shards, placement()))
    assert len(events(tmp_path / "work", "start")) == 1


@pytest.mark.faults
def test_a_killed_rank_restarts_the_group(long_reference: Path, shards: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    progress = Watching(21, lambda: rank_processes(work)[1].kill())
    output, statistics = run_stage(tmp_path, shards, placement(2), training=LONG, progress=progress)
    assert statistics["restarts"] == 1
    (event,) = events(output, "restart")
    assert "rank 1 died" in event["reason"]
    first, second = events(output, "start")
    assert "resumed_from" not in first and second["resumed_from"] == f"step-{second['step']:08d}"
    assert 10 <= second["step"] < LONG.steps
    assert_as_undisturbed(output, long_reference)


@pytest.mark.slow
def test_a_rank_that_stands_still_restarts_the_group(long_reference: Path, shards: Path, tmp_path: Path) -> None:
    work, stopped = tmp_path / "work", []

    def stop() -> None:
        stopped.append(rank_processes(work)[1])
        stopped[0].suspend()

    layout, progress = placement(2, hang_seconds=8), Watching(21, stop)
    output, statistics = run_stage(tmp_path, shards, layout, training=LONG, progress=progress)
    assert statistics["restarts"] == 1
    (event,) = events(output, "restart")
    told = re.fullmatch(
        rf"silent for 8 s or longer: rank 1 on {platform.node()}, \w+ after step (\d+)", event["reason"]
    )
    assert told is not None and int(told[1]) < LONG.steps
    first, second = events(output, "start")
    assert "resumed_from" not in first and second["resumed_from"] == f"step-{second['step']:08d}"
    assert_as_undisturbed(output, long_reference)
    psutil.wait_procs(stopped, timeout=10)
    assert not stopped[0].is_running()
    assert statistics["straggler"]["rank"] in (0, 1) and statistics["straggler"]["slowest_over_median"] >= 1


@pytest.mark.faults
def test_ranks_of_a_killed_driver_die_and_the_next_one_goes_on(reference: Path, shards: Path, tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, __file__, str(tmp_path), str(shards)], cwd=Path(__file__).parent)
    metrics = tmp_path / "work" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 11):
        assert driver.poll() is None
        time.sleep(0.05)
    ranks = list(rank_processes(tmp_path / "work").values())
    assert len(ranks) == 2
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive
    output, _ = run_stage(tmp_path, shards, placement(2), name="b", epoch=1)
    assert_as_undisturbed(output, reference)


def _drive(root: Path, shards: Path) -> None:
    """A driver with an embedded Ray of its own, to be killed."""
    ray.init(address="local", include_dashboard=False, num_cpus=2, object_store_memory=100 * 2**20)
    train(TRAINING, MODEL, Folder.at(shards), None, new_attempt(root), placement(2), NoProgress())


if __name__ == "__main__":
    _drive(Path(sys.argv[1]), Path(sys.argv[2]))
