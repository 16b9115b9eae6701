"""A run goes from whatever state it was left in to its end, and builds only what has to be built."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from illada.artifacts import ArtifactError, Attempt, Progress
from illada.durable import stages
from illada.durable.client import cancel, status
from illada.durable.engine import RunInterrupted, StageFailed, StageRunner, StageStatus, execute
from illada.durable.runs import Run, RunRegistry

NewRun = Callable[..., Run]


def test_new_run_builds_every_stage_in_order(engine: sa.Engine, new_run: NewRun, chain) -> None:
    result = execute(new_run(), engine, chain)
    assert chain.built == ["a", "b", "c"]
    assert chain.how == {"a": "built", "b": "built", "c": "built"}
    assert chain.runner.store.open("c", result["last"]).path("value").read_text() == "c 1"
    (run,) = status(engine)
    assert (run.state, run.resume, run.result) == ("finished", None, result)
    assert [(stage.stage, stage.state, stage.attempt) for stage in run.stages] == [
        (name, "done", 1) for name in ("a", "b", "c")
    ]
    assert run.stages[0].done == run.stages[0].total == 2
    assert run.stages[0].figures == {"loss": 0.5}
    json.dumps(run.as_json())


def test_finished_run_is_gone_through_again_without_building(engine: sa.Engine, new_run: NewRun, chain) -> None:
    first = execute(new_run(), engine, chain)
    chain.built.clear()
    prepared: list[str] = []
    assert execute(new_run(), engine, chain, prepare=lambda: prepared.append("ray")) == first
    assert chain.built == prepared == []
    assert set(chain.how.values()) == {"reused"}
    (run,) = status(engine)
    assert run.generation == 2
    assert [stage.state for stage in run.stages] == ["reused"] * 3


def test_prepare_is_called_before_the_first_build(engine: sa.Engine, new_run: NewRun, chain) -> None:
    order: list[str] = []
    chain.on_build["a"] = lambda progress: order.append("build")
    execute(new_run(), engine, chain, prepare=lambda: order.append("prepare"))
    assert order[:2] == ["prepare", "build"]


def test_changed_configuration_rebuilds_from_there_on(engine: sa.Engine, new_run: NewRun, chain) -> None:
    execute(new_run("first"), engine, chain)
    chain.built.clear()
    chain.values["b"] = 2
    execute(new_run("second", {"x": 2}), engine, chain)
    assert chain.built == ["b", "c"]
    assert chain.how == {"a": "reused", "b": "built", "c": "built"}


def test_changed_placement_rebuilds_nothing(engine: sa.Engine, new_run: NewRun, chain) -> None:
    execute(new_run(), engine, chain)
    chain.built.clear()
    chain.placement["workers"] = 7
    execute(new_run(), engine, chain)
    assert chain.built == []


def test_failed_stage_runs_again_once_its_cause_is_gone(engine: sa.Engine, new_run: NewRun, chain) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("the corpus is empty")

    chain.on_build["b"] = fail
    with pytest.raises(StageFailed, match="stage b failed: ValueError: the corpus is empty") as caught:
        execute(new_run(), engine, chain)
    assert isinstance(caught.value.cause, ValueError)
    (run,) = status(engine)
    assert (run.state, run.failed_stage, run.error) == ("failed", "b", "ValueError: the corpus is empty")
    assert run.resume == "illada resume demo"
    assert [(stage.stage, stage.state) for stage in run.stages] == [("a", "done"), ("b", "failed")]
    assert run.stages[1].error == "ValueError: the corpus is empty"

    chain.built.clear()
    chain.on_build.clear()
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["b", "c"]
    assert chain.how == {"a": "replayed", "b": "built", "c": "built"}
    (run,) = status(engine)
    assert (run.state, run.error, run.failed_stage, run.generation) == ("finished", None, None, 1)
    assert [stage.attempt for stage in run.stages] == [1, 2, 1]


def test_bad_input_is_not_retried_and_lost_connections_are(
    engine: sa.Engine, new_run: NewRun, chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_RETRY_SECONDS", 0.01)

    def fail_once(progress: Progress) -> None:
        if chain.built.count("a") == 1:
            raise ConnectionResetError("peer went away")

    chain.on_build["a"] = fail_once
    execute(new_run(), engine, chain)
    assert chain.built == ["a", "a", "b", "c"]
    assert status(engine)[0].stages[0].attempt == 2

    chain.built.clear()
    chain.values["a"] = 2

    def fail_always(progress: Progress) -> None:
        raise ConnectionResetError("peer stays away")

    chain.on_build["a"] = fail_always
    with pytest.raises(StageFailed, match="stage a failed: ConnectionResetError: peer stays away"):
        execute(new_run("second", {"x": 2}), engine, chain)
    assert chain.built == ["a"] * 4


def test_damaged_work_is_done_again_within_the_run(
    engine: sa.Engine, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_RETRY_SECONDS", 0.01)
    made = []

    def build(attempt: Attempt, progress: Progress) -> dict[str, Any]:
        if not attempt.work.exists("piece"):
            attempt.work.write("piece", b"true")
            made.append("piece")
        attempt.adopt(attempt.work, "piece", "whole", sha256=hashlib.sha256(b"true").hexdigest())
        if len(made) == 1:
            (attempt.output / "whole").write_bytes(b"fake")  # the same file as in the work folder
        return {}

    def graph(runner: StageRunner) -> dict[str, Any]:
        return {"content": runner.stage("join", 1, {}, {}, build).path("whole").read_text()}

    assert execute(new_run(), engine, graph) == {"content": "true"}
    assert made == ["piece", "piece"]


def test_error_outside_a_stage_comes_as_it_is(engine: sa.Engine, new_run: NewRun, chain) -> None:
    def graph(runner):
        chain(runner)
        raise KeyError("nothing of the kind")

    with pytest.raises(KeyError):
        execute(new_run(), engine, graph)
    assert status(engine)[0].error == "KeyError: 'nothing of the kind'"
    execute(new_run(), engine, chain)
    assert chain.built == ["a", "b", "c"]
    assert set(chain.how.values()) == {"reused"}


def test_result_must_be_json(engine: sa.Engine, new_run: NewRun) -> None:
    with pytest.raises(TypeError, match=r"value\.when: a object has no canonical form"):
        execute(new_run(), engine, lambda runner: {"when": object()})
    assert status(engine)[0].state == "failed"


def stop_during(name: str, engine: sa.Engine, new_run: NewRun, chain) -> None:
    """Cancel from another thread while stage `name` works, as `illada cancel` does from another process."""
    reached = threading.Event()

    def work(progress: Progress) -> None:
        reached.set()
        while True:
            progress.update(1)
            time.sleep(0.01)

    chain.on_build[name] = work
    canceller = threading.Thread(target=lambda: (reached.wait(), cancel(engine, "demo")))
    canceller.start()
    with pytest.raises(RunInterrupted) as caught:
        execute(new_run(), engine, chain, ttl=1.5)
    canceller.join()
    assert caught.value.cancelled
    chain.on_build.clear()
    chain.built.clear()


def test_cancelled_run_keeps_what_is_finished_and_resumes(engine: sa.Engine, new_run: NewRun, chain) -> None:
    stop_during("b", engine, new_run, chain)
    (run,) = status(engine)
    assert (run.state, run.resume) == ("cancelled", "illada resume demo")
    assert [(stage.stage, stage.state) for stage in run.stages] == [("a", "done"), ("b", "stopped")]
    heard: list[StageStatus] = []
    execute(new_run(), engine, chain, listener=heard.append)
    assert chain.built == ["b", "c"]
    assert (heard[0].stage, heard[0].state) == ("a", "done"), "a display learns of stages that finished earlier"
    assert status(engine)[0].state == "finished"


def test_new_stage_version_makes_recorded_steps_stale(engine: sa.Engine, new_run: NewRun, chain) -> None:
    stop_during("c", engine, new_run, chain)
    chain.versions["b"] = 2
    execute(new_run(), engine, chain)
    assert chain.built == ["b", "c"]
    assert chain.how == {"a": "reused", "b": "built", "c": "built"}
    assert status(engine)[0].generation == 2


def test_new_stage_order_makes_recorded_steps_stale(engine: sa.Engine, new_run: NewRun, chain) -> None:
    stop_during("c", engine, new_run, chain)
    chain.values = {"z": 1, **chain.values}
    execute(new_run(), engine, chain)
    assert chain.built == ["z", "a", "b", "c"]


def test_vanished_artifact_is_rebuilt_on_resume(engine: sa.Engine, new_run: NewRun, chain, tmp_path: Path) -> None:
    stop_during("c", engine, new_run, chain)
    shutil.rmtree(tmp_path / "store" / "a")
    execute(new_run(), engine, chain)
    assert chain.built == ["a", "c"]


@pytest.mark.parametrize("finished", [False, True])
def test_damaged_artifact_is_named_with_its_cure(
    engine: sa.Engine, new_run: NewRun, chain, tmp_path: Path, finished: bool
) -> None:
    if finished:
        execute(new_run(), engine, chain)
    else:
        stop_during("c", engine, new_run, chain)
    (path,) = (tmp_path / "store" / "a").glob("*/attempt-*/value")
    path.write_text("a 2")
    for _ in range(2):
        with pytest.raises((StageFailed, ArtifactError), match=r"attempt-.*/value: its sha256 differs") as caught:
            execute(new_run(), engine, chain)
    shutil.rmtree(path.parents[1])
    assert f"delete {path.parents[1]} and run again" in str(caught.value)
    chain.built.clear()
    execute(new_run(), engine, chain)
    assert chain.built[0] == "a"
    assert status(engine)[0].state == "finished"


def test_epoch_rises_with_every_driver(engine: sa.Engine, new_run: NewRun, chain) -> None:
    epochs = []
    for _ in range(3):
        execute(new_run(), engine, chain)
        epochs.append(chain.runner.epoch)
    assert epochs == [1, 2, 3]
    record = chain.runner.store.open("a", chain.runner.stages[0].fingerprint).record
    assert record["epoch"] == 1


def test_runs_of_one_database_do_not_take_up_each_others_work(engine: sa.Engine, new_run: NewRun, chain) -> None:
    stop_during("b", engine, new_run, chain)
    other = type(chain)(values={"q": 1})
    execute(new_run("other", {"x": 2}), engine, other)
    assert other.built == ["q"]
    assert chain.built == []
    assert {run.run_id: run.state for run in status(engine)} == {"demo": "cancelled", "other": "finished"}
