"""`resume --from`: doubted artifacts are built again, whatever state the run is in; forks keep to their parent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from illada.artifacts import Progress, Store
from illada.config import ConfigError
from illada.durable import rebuild
from illada.durable.client import status
from illada.durable.engine import RunBusy, StageFailed, execute
from illada.durable.events import read_events
from illada.durable.lease import Lease, build_lease_id
from illada.durable.progress import read_stages
from illada.durable.rebuild import request_rebuild
from illada.durable.runs import Run, RunRegistry, UnknownRun
from illada.durable.stages import ForkMismatch

NewRun = Callable[..., Run]


@pytest.fixture
def finished(engine: sa.Engine, new_run: NewRun, chain) -> Run:
    """A run that has gone through its graph; what it built is forgotten."""
    execute(new_run(), engine, chain)
    chain.built.clear()
    return RunRegistry(engine).get("demo")


def test_finished_run_is_built_again_from_a_stage_on(engine: sa.Engine, finished: Run, chain, tmp_path: Path) -> None:
    old = {path.parent.parent.name: path for path in (tmp_path / "store").glob("*/*/record.json")}
    reader = (old["b"].parent / json.loads(old["b"].read_text())["attempt"] / "value").open()
    assert request_rebuild(engine, "demo", "b") == ["b", "c"]
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["b", "c"]
    assert chain.how == {"a": "replayed", "b": "built", "c": "built"}
    assert status(engine)[0].generation == 1, "the same passage through the graph"
    assert reader.read() == "b 1", "whoever reads the old files is not disturbed"
    retired = sorted(path.parent.parent.name for path in (tmp_path / "store").glob("*/*/retired-*.json"))
    assert retired == ["b", "c"]
    assert RunRegistry(engine).get("demo").rebuild == ()
    assert [event.stage for event in read_events(engine, "demo") if event.kind == "taken back"] == ["b", "c"]
    chain.built.clear()
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == [], "once"


def test_damaged_artifact_is_mended(engine: sa.Engine, finished: Run, chain, tmp_path: Path) -> None:
    next((tmp_path / "store" / "a").glob("*/attempt-*/value")).write_text("damaged")
    next((tmp_path / "store" / "b").glob("*/record.json")).write_text("damaged")
    with pytest.raises(StageFailed, match=r"sha256 differs|bytes, its record says"):
        execute(finished, engine, chain)
    request_rebuild(engine, "demo", "a")
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["a", "b", "c"]
    assert Store(tmp_path / "store").open("a", read_stages(engine, "demo", False)[0].fingerprint).path("value")


def test_failed_run_goes_back_before_the_failure(engine: sa.Engine, new_run: NewRun, chain, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("no")

    chain.on_build["c"] = fail
    with pytest.raises(StageFailed):
        execute(new_run(), engine, chain)
    work = next((tmp_path / "store" / "c").glob("*")) / "work"
    (work / "half").write_text("done")
    chain.built.clear()
    chain.on_build["c"] = lambda progress: found.append(work.exists() and list(work.iterdir()))
    found: list[object] = []
    assert request_rebuild(engine, "demo", "b") == ["b", "c"]
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["b", "c"]
    assert found == [[]], "what was half built is not gone on with"


def test_rebuild_that_fails_goes_on_where_it_was(engine: sa.Engine, finished: Run, chain, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        (next((tmp_path / "store" / "b").glob("*")) / "work" / "half").write_text("done")
        raise ValueError("no")

    chain.on_build["b"] = fail
    request_rebuild(engine, "demo", "a")
    with pytest.raises(StageFailed):
        execute(RunRegistry(engine).get("demo"), engine, chain)
    assert RunRegistry(engine).get("demo").rebuild == ("c",)
    found: list[bool] = []
    chain.on_build["b"] = lambda progress: found.append(next((tmp_path / "store" / "b").glob("*/work/half")).exists())
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["a", "b", "b", "c"]
    assert found == [True], "what the rebuild has done is kept"


def test_stage_that_is_not_come_to_again_keeps_its_artifact(engine: sa.Engine, finished: Run, chain) -> None:
    request_rebuild(engine, "demo", "b")
    del chain.values["c"]
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["b"]
    assert RunRegistry(engine).get("demo").rebuild == ()
    chain.values["c"] = 1
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["b"], "c is still there"


def test_artifact_that_another_run_builds_is_left_alone(
    engine: sa.Engine, finished: Run, chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "_WAIT_SECONDS", 0.5)
    stage = read_stages(engine, "demo", False)[1]
    request_rebuild(engine, "demo", "b")
    other = Lease(engine, build_lease_id(Store(finished.store).folder("b", stage.fingerprint)))
    with other, pytest.raises(StageFailed, match="is being built by another run; cancel that one first"):
        execute(RunRegistry(engine).get("demo"), engine, chain)
    assert status(engine)[0].state == "failed"
    execute(RunRegistry(engine).get("demo"), engine, chain)
    assert chain.built == ["b", "c"], "the request is still there"


def test_bad_requests(engine: sa.Engine, finished: Run) -> None:
    with pytest.raises(ConfigError, match=r"run demo has not come to a stage 'bb'; did you mean b\?"):
        request_rebuild(engine, "demo", "bb")
    with pytest.raises(UnknownRun):
        request_rebuild(engine, "nightly", "b")
    with Lease(engine, "demo"), pytest.raises(RunBusy, match="stop it first: illada cancel demo"):
        request_rebuild(engine, "demo", "b")
    RunRegistry(engine).update("demo", wanted=True)
    with pytest.raises(RunBusy):
        request_rebuild(engine, "demo", "b")
    assert RunRegistry(engine).get("demo").rebuild == ()


def test_fork_reuses_everything_before_its_stage(engine: sa.Engine, finished: Run, chain, tmp_path: Path) -> None:
    registry = RunRegistry(engine)
    fork = registry.create("fork", "x: 2\n", {"x": 2}, finished.store, [], parent="demo", fork_stage="b")
    assert (fork.parent, fork.fork_stage) == ("demo", "b")
    chain.values["b"] = 2
    execute(fork, engine, chain)
    assert chain.how == {"a": "reused", "b": "built", "c": "built"}
    (run,) = status(engine, "fork")
    assert (run.parent, run.fork_stage) == ("demo", "b")


def test_fork_whose_common_part_is_another_is_refused(engine: sa.Engine, finished: Run, chain) -> None:
    fork = RunRegistry(engine).create("fork", "x: 2\n", {"x": 2}, finished.store, [], parent="demo", fork_stage="c")
    chain.values["b"] = 2
    with pytest.raises(ForkMismatch, match=r"stage b is not that of the run this one was forked from"):
        execute(fork, engine, chain)
    assert chain.built == []
    assert status(engine, "fork")[0].state == "failed"
    assert replace(fork, parent=None) != fork
