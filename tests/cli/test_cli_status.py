"""`illada status` and `illada logs` as people and programs read them, of runs that really went that way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.table import Table

from illada.artifacts import Progress
from illada.cli.status import _watched
from illada.config import ConfigError
from illada.durable.client import cancel, status
from illada.durable.database import runs, stages
from illada.durable.engine import RunInterrupted, StageFailed
from illada.durable.events import record_event
from illada.durable.lease import Lease
from illada.durable.runs import RunRegistry, UnknownRun


def fail(progress: Progress) -> None:
    """A user's error with a cause."""
    progress.update(400)
    raise ValueError("row 3 has no column 'text'")


def test_nothing_yet(illada: Callable[..., Any]) -> None:
    assert "no runs yet" in illada("status").stdout
    assert json.loads(illada("status", "--json").stdout) == []
    with pytest.raises(UnknownRun):
        illada("logs", "demo")


@pytest.fixture
def failed(run_chain: Callable[..., None]) -> None:
    """A run that failed in its second stage."""
    with pytest.raises(StageFailed):
        run_chain("bad", b=fail)


def test_failed_run_in_the_table(illada: Callable[..., Any], failed: None) -> None:
    header, line = illada("status").stdout.splitlines()
    assert header.split() == [
        "run", "state", "stage", "try", "progress", "left", "nodes", "updated", "last", "error",
    ]  # fmt: skip
    assert line.split()[:7] == ["bad", "failed", "b", "1", "400/1200", "documents", "0s"]
    assert line.endswith("ValueError: row 3 has no column 'text'")


def test_failed_run_in_detail(illada: Callable[..., Any], failed: None) -> None:
    text = illada("status", "bad").stdout
    assert "b: ValueError: row 3 has no column 'text'" in text
    assert "more: illada logs bad b" in text
    assert "go on with: illada resume bad" in text
    assert [line.split()[:2] for line in text.splitlines()[-2:]] == [["a", "done"], ["b", "failed"]]


def test_json_has_everything(illada: Callable[..., Any], failed: None) -> None:
    (run,) = json.loads(illada("status", "--json").stdout)
    assert (run["run_id"], run["state"], run["failed_stage"]) == ("bad", "failed", "b")
    assert [stage["state"] for stage in run["stages"]] == ["done", "failed"]
    assert run["stages"][1]["done"] == 400
    assert json.loads(illada("status", "bad", "--json").stdout) == [run]


def test_finished_run(illada: Callable[..., Any], run_chain: Callable[..., None]) -> None:
    run_chain("good")
    assert illada("status").stdout.splitlines()[1].split()[:4] == ["good", "finished", "3", "stages"]
    assert "1200 / 1200 documents  kept 1000" in illada("status", "good").stdout


def test_run_at_work(illada: Callable[..., Any], run_chain: Callable[..., None], engine: sa.Engine) -> None:
    """Stage, progress and time left of a live driver, as another process sees them; then it is cancelled."""
    reached = threading.Event()

    def work(progress: Progress) -> None:
        started = time.monotonic()
        while True:
            progress.update(min(1100, 100 * (time.monotonic() - started)))
            if time.monotonic() - started > 1.5:
                reached.set()
            time.sleep(0.05)

    seen: dict[str, str] = {}

    def look() -> None:
        reached.wait()
        RunRegistry(engine).update("demo", nodes=4)
        seen["table"] = illada("status").stdout
        seen["detail"] = illada("status", "demo").stdout
        cancel(engine, "demo")

    looker = threading.Thread(target=look)
    looker.start()
    with pytest.raises(RunInterrupted):
        run_chain(b=work)
    looker.join()
    fields = seen["table"].splitlines()[1].split()
    assert fields[:4] == ["demo", "running", "b", "1"]
    assert fields[5] == "documents" and fields[6].endswith("s") and fields[7] == "4"
    assert "of a cluster of 4 nodes, epoch 1" in seen["detail"]
    assert "left" in seen["detail"] and "/s" in seen["detail"]


def test_live_runs_come_first_and_old_ones_are_left_out(illada: Callable[..., Any], engine: sa.Engine) -> None:
    registry = RunRegistry(engine)
    for number in range(50):
        registry.create(f"run-{number}", "x: 1", {"x": 1}, "/store", [])
    registry.update("run-0", status="running")
    with engine.begin() as connection:
        connection.execute(sa.update(runs).where(runs.c.run_id == "run-0").values(updated=time.time() - 3600))
    with Lease(engine, "run-0"):
        lines = illada("status").stdout.splitlines()
        assert lines[1].split()[:2] == ["run-0", "running"]
        assert len(lines) == 42
        assert lines[-1] == "and 10 more: illada status --all"
        assert len(illada("status", "--all").stdout.splitlines()) == 51


def test_a_thousand_runs_answer_in_a_second(illada: Callable[..., Any], engine: sa.Engine) -> None:
    now = time.time()
    row: dict[str, Any] = {
        "config_yaml": "x: 1\n" * 300, "identity": json.dumps({"x": list(range(500))}), "fingerprint": "0" * 64,
        "store": "/store", "argv": "[]", "created": now, "updated": now, "status": "interrupted", "generation": 1,
    }  # fmt: skip
    stage: dict[str, Any] = {
        "state": "done", "attempt": 1, "fingerprint": "a" * 64, "reused": False, "done": 1.0, "total": 2.0,
        "unit": "documents", "figures": '{"loss": 1.0}', "started": 1.0, "finished": 2.0, "seconds": 1.0,
        "updated": now,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(sa.insert(runs), [{**row, "run_id": f"run-{number}"} for number in range(1000)])
        rows = [
            {**stage, "run_id": f"run-{number}", "stage": f"stage-{position}", "position": position}
            for number in range(1000)
            for position in range(15)
        ]
        connection.execute(sa.insert(stages), rows)
    began = time.process_time()
    assert sum(len(run.stages) for run in status(engine)) == 15_000
    assert "960 more" in illada("status").stdout
    assert time.process_time() - began < 2.0, "both of them"


def test_logs(illada: Callable[..., Any], failed: None) -> None:
    lines = illada("logs", "bad").stdout.splitlines()
    assert lines[0].split()[2:4] == ["started", "process"]
    assert [line.split()[2:4] for line in lines[1:5]] == [
        ["a", "attempt"],
        ["a", "done"],
        ["b", "attempt"],
        ["b", "failed"],
    ]
    assert lines[-2].strip() == "ValueError: row 3 has no column 'text'"
    assert lines[-1].endswith("failed  stage b: ValueError: row 3 has no column 'text'")
    only = illada("logs", "bad", "a").stdout.splitlines()
    assert len(only) == 2
    events = [json.loads(line) for line in illada("logs", "bad", "--json").stdout.splitlines()]
    assert [event["kind"] for event in events] == ["started", "attempt", "done", "attempt", "failed", "failed"]


def test_last_words_of_ranks(illada: Callable[..., Any], run_chain: Callable[..., None], tmp_path: Path) -> None:
    def crash(progress: Progress) -> None:
        logs = next((tmp_path / "store" / "b").glob("*/work")) / "logs"
        logs.mkdir()
        (logs / "rank-00000.log").write_text("".join(f"line {number}\n" for number in range(100)))
        (logs / "rank-00001.log").write_bytes(b"Fatal Python error: \xff Segmentation fault\n")
        raise ValueError("rank 1 died")

    with pytest.raises(StageFailed):
        run_chain("bad", b=crash)
    for arguments in (["bad"], ["bad", "b"]):
        text = illada("logs", *arguments).stdout
        assert "rank-00000.log\n    line 85\n" in text and "    line 99\n" in text and "line 84" not in text
        assert "Segmentation fault" in text
    assert "Segmentation" not in illada("logs", "bad", "a").stdout
    assert "Segmentation" not in illada("logs", "bad", "--json").stdout


def test_store_that_is_elsewhere(illada: Callable[..., Any], failed: None, engine: sa.Engine) -> None:
    RunRegistry(engine).update("bad", store="/nowhere/store")
    assert illada("logs", "bad", "b").stdout.splitlines()[-1].strip() == "ValueError: row 3 has no column 'text'"


@pytest.mark.parametrize(("stage", "message"), [("bb", "did you mean b?"), ("zzzz", "known stages: a, b")])
def test_unknown_stage(illada: Callable[..., Any], failed: None, stage: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"run bad has not come to a stage '{stage}'") as caught:
        illada("logs", "bad", stage)
    assert message in str(caught.value)


def test_following_ends_with_the_run(illada: Callable[..., Any], failed: None, engine: sa.Engine) -> None:
    RunRegistry(engine).update("bad", status="created")

    def finish() -> None:
        time.sleep(0.5)
        record_event(engine, "bad", "finished", "at last")
        RunRegistry(engine).update("bad", status="finished")

    thread = threading.Thread(target=finish)
    thread.start()
    assert illada("logs", "bad", "--follow").stdout.splitlines()[-1].endswith("finished  at last")
    thread.join()


def test_watching_goes_on_while_the_database_is_away(engine: sa.Engine, run_chain: Callable[..., None]) -> None:
    run_chain("good")
    assert isinstance(_watched(engine, None, every=False), Table)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE illada_runs RENAME TO away")
    assert "has gone out of reach" in str(_watched(engine, None, every=False))
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO illada_runs")
    assert isinstance(_watched(engine, None, every=False), Table)


def test_input_that_was_given_up_is_shown(illada: Callable[..., Any], run_chain: Callable[..., None]) -> None:
    run_chain(b=lambda progress: progress.update(10, quarantined=2))
    (line,) = (line for line in illada("status", "demo").stdout.splitlines() if line.startswith(" b "))
    assert "quarantined 2" in line
