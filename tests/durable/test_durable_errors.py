"""What people are told of a failure is its cause: real failures of each kind, on an embedded Ray."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError

from illada.artifacts import Folder, NoProgress, Progress
from illada.config import DataPlacement, Placement
from illada.durable import stages
from illada.durable.client import status
from illada.durable.cluster import Cluster, connect, run_remote
from illada.durable.engine import StageFailed, execute
from illada.durable.errors import describe, root_cause
from illada.durable.events import read_events
from illada.train.errors import RankError
from pipelines.pool import ActorPool, Unit


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One embedded Ray for all tests of this file, whose functions travel by value: workers cannot import tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with connect(Placement(ray_cpus=1, object_store_mb=80, data=DataPlacement(workers=1))) as connected:
        yield connected
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class TwoArguments(Exception):
    """Cannot be unpickled: pickle calls it with what `super().__init__` was given."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"no {what} in {where}")


class Unpicklable(Exception):
    """Carries a lock."""

    def __init__(self) -> None:
        super().__init__("the reader is stuck")
        self.lock = threading.Lock()


def fail_plainly(progress: Progress) -> None:
    """A user's error that has a cause of its own."""
    try:
        {}["column"]
    except KeyError as error:
        raise ValueError("row 3 has no column") from error


def fail_unreadably(progress: Progress) -> None:
    """An error that does not survive the way back."""
    raise TwoArguments("text", "row 3")


def fail_unsendably(progress: Progress) -> None:
    """An error that cannot be sent."""
    raise Unpicklable


def fail_nested(progress: Progress) -> None:
    """An error of a task that a task has started."""
    import ray

    ray.get(ray.remote(num_cpus=0)(fail_plainly).remote(None))


def die(progress: Progress) -> None:
    """What the kernel does to a process when memory runs out."""
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("function", "line", "hidden"),
    [
        (fail_plainly, "ValueError: row 3 has no column", "KeyError: 'column'"),
        (fail_unreadably, "TwoArguments: no text in row 3", "in fail_unreadably"),
        (fail_unsendably, "Unpicklable: the reader is stuck", "in fail_unsendably"),
        (fail_nested, "ValueError: row 3 has no column", "in fail_plainly"),
    ],
)
def test_error_of_a_task(
    cluster: Cluster,
    engine: sa.Engine,
    new_run: Callable[..., Any],
    function: Callable[..., None],
    line: str,
    hidden: str,
) -> None:
    """One line says what went wrong; the history has the traceback from the other process."""

    def graph(runner):
        runner.stage("bad", 1, {}, {}, lambda attempt, progress: run_remote(function, progress=progress))

    with pytest.raises(StageFailed, match="stage bad failed: "):
        execute(new_run(), engine, graph, prepare=cluster.start)
    (run,) = status(engine)
    assert run.error is not None and run.error.rpartition(".")[2] == line
    assert run.stages[0].error == run.error
    failed = next(event for event in read_events(engine, "demo", stage="bad") if event.kind == "failed")
    assert line in failed.text and hidden in failed.text
    assert "\x1b" not in failed.text


def test_dead_worker_and_exhausted_retries(
    cluster: Cluster, engine: sa.Engine, new_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_RETRY_SECONDS", 0.01)

    def graph(runner):
        runner.stage("bad", 1, {}, {}, lambda attempt, progress: run_remote(die, progress=progress))

    with pytest.raises(StageFailed):
        execute(new_run(), engine, graph, prepare=cluster.start)
    (run,) = status(engine)
    assert run.error is not None and run.error.startswith("WorkerCrashedError: The worker died unexpectedly")
    events = read_events(engine, "demo", stage="bad")
    assert [event.kind for event in events] == ["attempt", "retry"] * 3 + ["attempt", "failed"]
    assert events[1].text.startswith("try 1 of 4 failed:")


class Killer:
    """A worker of the data pool that dies with every unit."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        os.kill(os.getpid(), 9)
        return {}


class Stumbler:
    """A worker of the data pool that cannot read its unit."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        raise ValueError("line 7 is not JSON")


@pytest.mark.parametrize(
    ("worker", "line"),
    [
        (
            Killer,
            r"u0: its worker process died 3 times; the last time: The actor died unexpectedly before finishing this "
            r"task\. .* Worker exit detail: .*\.",
        ),
        (Stumbler, r"ValueError: line 7 is not JSON \(in unit u0\)"),
    ],
)
def test_error_of_the_data_pool(cluster: Cluster, tmp_path: Path, worker: type, line: str) -> None:
    units = [Unit(name="u0", payload={}, weight=1)]
    with pytest.raises((ValueError, RuntimeError)) as caught, ActorPool(worker, DataPlacement(workers=1)) as pool:
        pool.run(units, Folder.at(tmp_path), NoProgress(), "units")
    described = describe(root_cause(caught.value))
    assert re.fullmatch(line, described), described
    assert "common causes" not in described and "actor_id" not in described


def test_memory_monitor_of_ray_is_quoted_without_its_advice() -> None:
    text = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node was 29 GB used / 30 GB\n"
        "Object store memory usage: [- objects spillable: 0\nTop 10 memory users: PID\tMEM(GB)\tCOMMAND\n"
        "21450\t0.77\tpython train.py --password hunter2\n"
    )
    described = describe(OutOfMemoryError(text))
    assert described.startswith("OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory.")
    assert "hunter2" not in described


def test_rank_error_speaks_for_itself() -> None:
    error = RankError("rank 2 died: killed, out of memory or crashed (connection error code 2)")
    assert describe(root_cause(error)) == str(error)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, engine: sa.Engine, new_run, chain) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted-secret")

    def fail(progress: Progress) -> None:
        raise ValueError("401 for hf_planted-secret at https://me:pass-word@hub.example/x")

    chain.on_build["b"] = fail
    with pytest.raises(StageFailed):
        execute(new_run(), engine, chain)
    (run,) = status(engine)
    assert run.error == "ValueError: 401 for *** at https://me:***@hub.example/x"
    shown = run.error + "".join(event.text for event in read_events(engine, "demo"))
    assert "planted" not in shown and "pass-word" not in shown


def test_long_message_is_cut() -> None:
    assert len(describe(ValueError("x" * 10_000))) == 500
