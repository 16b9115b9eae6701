"""Training whose shards, checkpoints, metrics and logs are in an object store is the training on files, bit for bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from train_helpers import LONG, MODEL, TRAINING, placement, published, trace, verify
from train_ranks import on_ranks

from illada.artifacts import Artifact, Folder, NoProgress, StageIdentity, StageInterrupted, Store, claim
from illada.train import checkpoint, loop
from illada.train.checkpoint import FOLDER
from illada.train.export import export_weights
from illada.train.job import Job
from illada.train.metrics import METRICS, read_rows
from illada.train.stage import train


def upload(local: Path, folder: Folder) -> Folder:
    for path in local.iterdir():
        folder.put(path, path.name)
    return folder


def rows(work: Folder) -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_second", "compute")
    return [{key: row[key] for key in row if key not in timed} for row in read_rows(work, METRICS)]


def killed_in_put(task: Job) -> None:
    """The loop, whose rank 1 is killed after it has uploaded its part of the checkpoint of step 20."""
    sound = checkpoint.Draft.put

    def put(self: checkpoint.Draft, name: str, sha256: str) -> dict[str, Any]:
        written = sound(self, name, sha256)
        if "step-00000020" in self.name and "00001" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    checkpoint.Draft.put = put  # type: ignore[method-assign]
    loop.run(task)


def test_killed_during_an_upload_and_resumed(s3_url: str, shards: Path, reference: Path) -> None:
    work = Folder.at(f"{s3_url}/work")
    claim(work, 0)
    task = Job(
        training=TRAINING,
        model=MODEL,
        placement=placement(2),
        shards=upload(shards, Folder.at(f"{s3_url}/shards")),
        initial=None,
        work=work,
        domain="pretrain",
        epoch=0,
    )
    with pytest.raises(Exception, match=r"SIGKILL|terminated|closed"):
        on_ranks(task, killed_in_put)
    assert checkpoint.published(work) == ["step-00000010"]
    assert any(name.startswith(".data-step-00000020") for name in (work / FOLDER).names()), "an unfinished write"
    on_ranks(task)
    assert rows(work) == trace(reference / "metrics.jsonl")
    assert checkpoint.published(work) == ["step-00000010", "step-00000020"]
    found = checkpoint.latest(work, 0)
    assert found.stored is not None
    assert found.stored.manifest["files"] == verify(published(reference / FOLDER)[-1])["files"]
    assert len({name.split("/")[0] for name in (work / FOLDER).names(".data-")}) == 2, "the unfinished one is gone"


class Watching(NoProgress):
    """Calls `act` at the first update past `step`."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act, self.acted = step, act, False

    def update(self, done: float, **figures: float | str) -> None:
        if done >= self.step and not self.acted:
            self.acted = True
            self.act()


def ranks() -> list[psutil.Process]:
    """Training processes of this test's Ray: those whose output goes to a rank's log."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
        except OSError:
            continue
        if output.name.startswith("rank-0") and process.is_running():
            found.append(process)
    return found


@pytest.mark.faults
def test_a_killed_rank_and_an_interruption(s3_url: str, shards: Path, long_reference: Path) -> None:
    """Under Ray Train: stop and progress without shared files, a rank killed, an interruption, then publication."""
    ray.shutdown()
    ray.init(address="local", include_dashboard=False, num_cpus=4, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        store = Store(f"{s3_url}/store")
        data = upload(shards, Folder.at(f"{s3_url}/shards"))
        identity = StageIdentity(stage="pretrain", version=1, config={}, inputs={})

        def stage(progress: NoProgress) -> Artifact:
            with store.attempt(identity, epoch=1) as attempt:
                statistics = train(LONG, MODEL, data, None, attempt, placement(2), progress)
                return store.publish(attempt, statistics, {}, time.time())

        def interrupt() -> None:
            raise StageInterrupted

        with pytest.raises(StageInterrupted):
            stage(Watching(21, interrupt))
        _, alive = psutil.wait_procs(ranks(), timeout=20)
        assert not alive
        work = store.folder("pretrain", identity.fingerprint) / "work"
        assert "rank-00000.log" in (work / "logs").names()
        interrupted = checkpoint.latest(work, 1).step
        assert 10 <= interrupted < LONG.steps
        artifact = stage(Watching(interrupted + 1, lambda: ranks()[-1].kill()))
        assert artifact.statistics["restarts"] == 1
        assert work.names() == {}
        assert trace(artifact.path("metrics.jsonl")) == trace(long_reference / "metrics.jsonl")
        local, remote = (
            verify(published(long_reference / FOLDER)[-1]),
            checkpoint.Stored.at(artifact.location / "checkpoint"),
        )
        assert remote.manifest["files"] == local["files"]
        assert not {"epoch", "data"} & set(remote.manifest)
        theirs = export_weights(published(long_reference / FOLDER)[-1], MODEL)
        for name, tensor in export_weights(artifact.location / "checkpoint", MODEL).items():
            assert tensor.equal(theirs[name]), name
    finally:
        ray.shutdown()
