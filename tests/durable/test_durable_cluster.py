"""Functions on an embedded Ray: progress comes back, errors are the real ones, and stopping means stopped."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from illada.artifacts import NoProgress, Progress, StageInterrupted
from illada.config import ConfigError, DataPlacement, Placement, TrainPlacement
from illada.durable import cluster as cluster_module
from illada.durable.cluster import Cluster, run_remote
from illada.durable.engine import StageFailed, execute

PLACEMENT = Placement(ray_cpus=1, object_store_mb=80, data=DataPlacement(workers=1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One embedded Ray for all tests of this file, whose functions travel by value: workers cannot import tests.

    The thread that asked for it has ended, as the one of a run's first stage may.
    """
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Cluster(PLACEMENT) as made:
        thread = threading.Thread(target=made.start)
        thread.start()
        thread.join()
        yield made
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Recorder:
    """A Progress that keeps what it hears and interrupts after `patience` updates."""

    def __init__(self, patience: int = 10**9) -> None:
        self.heard: list[Any] = []
        self.patience = patience

    def start(self, total: float | None, unit: str) -> None:
        self.heard.append((total, unit))

    def update(self, done: float, **figures: float | str) -> None:
        self.heard.append((done, figures))
        self.patience -= 1
        if self.patience <= 0:
            raise StageInterrupted("enough")


def count(total: int, *, progress: Progress, pause: float = 0.0) -> dict[str, int]:
    """Counts to `total`."""
    progress.start(total, "numbers")
    for number in range(total):
        time.sleep(pause)
        progress.update(number + 1, square=number**2)
    return {"counted": total, "pid": os.getpid()}


def fail(progress: Progress) -> None:
    """Raises a user's error."""
    raise ValueError("the window is longer than the text")


def die(progress: Progress) -> None:
    """Ends its process."""
    os.kill(os.getpid(), 9)


def listen(folder: str, progress: Progress) -> None:
    """Works until interrupted, then cleans up."""
    try:
        while True:
            progress.update(1)
            time.sleep(0.05)
    finally:
        time.sleep(0.3)
        Path(folder, "cleaned").touch()


def ignore(folder: str, progress: Progress) -> None:
    """Never listens."""
    Path(folder, "pid").write_text(str(os.getpid()))
    time.sleep(600)


def test_it_outlives_the_thread_that_started_it(cluster: Cluster) -> None:
    """Its processes would be killed by then."""
    import ray

    processes = ray._private.worker._global_node.all_processes
    assert {"gcs_server", "raylet"} <= processes.keys()
    assert all(started.process.poll() is None for kind in ("gcs_server", "raylet") for started in processes[kind])


def test_slow_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Ray gives up on itself after half a minute."""
    import ray

    outcomes = [Exception("The current node timed out during startup."), None]
    resources = {"CPU": 1.0, "memory": 2.0**33}
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)

    def start(**_: Any) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(ray, "init", start)
    cluster_module._initialise(PLACEMENT)
    assert not outcomes
    outcomes = [Exception("The current node timed out during startup.")] * 3
    with pytest.raises(RuntimeError, match="machine is busy; run the same command again"):
        cluster_module._initialise(PLACEMENT)
    outcomes = [ValueError("num_cpus")]
    with pytest.raises(ValueError, match="num_cpus"):
        cluster_module._initialise(PLACEMENT)


def test_result_and_progress_come_back(cluster: Cluster) -> None:
    progress = Recorder()
    result = run_remote(count, 6, progress=progress, pause=0.2)
    assert result["counted"] == 6
    assert result["pid"] != os.getpid()
    assert (6, "numbers") in progress.heard
    assert progress.heard[-1] == (6, {"square": 25})


def test_short_function_reports_its_end(cluster: Cluster) -> None:
    progress = Recorder()
    run_remote(count, 3, progress=progress)
    assert progress.heard[-2:] == [(3, "numbers"), (3, {"square": 4})]


def test_closure_is_shipped(cluster: Cluster) -> None:
    factor = 7
    assert run_remote(lambda value, progress: value * factor, 6, progress=NoProgress()) == 42


def test_error_is_the_functions_own(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="the window is longer than the text") as caught:
        run_remote(fail, progress=NoProgress())
    assert type(caught.value) is ValueError


def test_dead_worker_is_a_transient_error(cluster: Cluster) -> None:
    from illada.durable.errors import is_transient

    with pytest.raises(Exception) as caught:
        run_remote(die, progress=NoProgress())
    assert is_transient(caught.value)
    assert "\n" not in str(caught.value)


def test_interrupted_function_cleans_up_before_the_driver_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(StageInterrupted):
        run_remote(listen, str(tmp_path), progress=Recorder(patience=3))
    assert (tmp_path / "cleaned").exists()


def test_function_that_does_not_listen_is_killed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_STOP_GRACE_SECONDS", 1.0)
    with pytest.raises(StageInterrupted):
        run_remote(ignore, str(tmp_path), progress=Recorder(patience=3))
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
    assert run_remote(count, 1, progress=NoProgress())["counted"] == 1, "the CPU is free again"


def test_stage_on_ray_within_a_run(cluster: Cluster, engine, new_run) -> None:
    def graph(runner):
        runner.stage("good", 1, {}, {}, lambda attempt, progress: run_remote(count, 3, progress=progress))
        runner.stage("bad", 1, {}, {}, lambda attempt, progress: run_remote(fail, progress=progress))
        raise AssertionError("not reached")

    with pytest.raises(StageFailed, match="stage bad failed: ValueError: the window is longer than the text"):
        execute(new_run(), engine, graph, prepare=cluster.start)


def test_start_is_idempotent(cluster: Cluster) -> None:
    cluster.start()


def test_cluster_that_is_not_needed_is_not_started() -> None:
    with Cluster(Placement(ray_address="127.0.0.1:1")):
        pass


def test_long_temporary_folder_is_not_used_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(cluster_module.tempfile, "gettempdir", lambda: "/home/" + "x" * 80)
    folder = cluster_module._short_temporary_folder()
    assert folder is not None
    assert len(folder) < 40


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement(data=DataPlacement(workers=3)), r"placement\.data\.workers x cpus_per_worker = 3 CPUs"),
        (Placement(pretrain=TrainPlacement(tensor=2, pipeline=2)), r"placement\.pretrain: .* = 4 CPUs"),
        (Placement(sft=TrainPlacement(data=3, cpus_per_rank=0.9)), r"placement\.sft: .* = 2\.7 CPUs"),
        (Placement(data=DataPlacement(workers=2, memory_gb=1.5)), r"placement\.data\.workers x memory_gb = 3 GB"),
    ],
)
def test_stage_that_could_never_start_is_refused(placement: Placement, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster_module._check_capacity(placement, 2, 2e9)
    cluster_module._check_capacity(placement, 4, 4e9)


@pytest.mark.slow
def test_unreachable_cluster_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"placement\.ray_address 127\.0\.0\.1:1: no Ray cluster answers"):
        Cluster(Placement(ray_address="127.0.0.1:1")).start()


def test_cluster_elsewhere_is_not_used_without_a_word_on_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ConfigError, match="is not this machine: set RAY_AUTH_MODE=token"):
        cluster_module._require_authentication("head:6379")
    cluster_module._require_authentication("auto")
    cluster_module._require_authentication("127.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster_module._require_authentication("head:6379")
