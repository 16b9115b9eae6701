"""The tiny chain on `s3://`, its driver killed in a data stage and while it pretrains, equals the one on files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chain import command, illada, published, stage_states, start_and_kill_in

from illada.artifacts import Folder, Store

if TYPE_CHECKING:
    from conftest import TinyRun

_TIMED = ("metrics.jsonl", "events.jsonl")


def published_in(store: Store) -> dict[str, dict[str, str]]:
    """As `chain.published`, of any store."""
    found: dict[str, dict[str, str]] = {}
    for name in store.root.names():
        if name.endswith("/record.json"):
            value = store.root.read_json(name)
            files = {file["name"]: file["sha256"] for file in value["files"] if file["name"] not in _TIMED}
            found[value["stage"]] = {"fingerprint": value["fingerprint"], **files}
    return found


def losses(store: Store, stage: str) -> list[tuple[int, float]]:
    """(step, loss) of a training stage."""
    artifact = store.open(stage, published_in(store)[stage]["fingerprint"])
    rows = [json.loads(line) for line in artifact.path("metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def kill_after_a_checkpoint(root: Folder, database: Path) -> None:
    """Resume, and `kill -9` the driver as soon as pretraining has published a checkpoint."""
    environment = {**os.environ, "ILLADA_DATABASE": f"sqlite:///{database}"}
    driver = subprocess.Popen(
        command("resume", "tiny"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    deadline = time.monotonic() + 300
    while not any("/work/checkpoints/step-" in name for name in (root / "pretrain").names()):
        assert driver.poll() is None, f"the driver ended before a checkpoint: {driver.communicate()[0]}"
        assert time.monotonic() < deadline, stage_states(database)
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_on_an_object_store_equals_uninterrupted_on_files(
    s3_url: str, tmp_path: Path, tiny_run: TinyRun
) -> None:
    config, objects = tiny_run.folder / "tiny.yaml", tmp_path
    database = objects / "runs.db"
    place = ["--set", f"placement.store={s3_url}/store", "--set", f"placement.output={objects}"]
    start_and_kill_in("curate", ["run", config, *place], database)
    kill_after_a_checkpoint(Folder.at(f"{s3_url}/store"), database)
    summary = json.loads(illada("resume", "tiny", "--json", database=database).stdout)
    assert set(stage_states(database).values()) <= {"done", "reused"}
    store = Store(f"{s3_url}/store")
    expected, got = published(tiny_run.store), published_in(store)
    assert got.keys() == expected.keys()
    for stage in expected:
        assert got[stage] == expected[stage], stage
    for stage in ("pretrain", "sft"):
        assert losses(store, stage) == losses(Store(tiny_run.store), stage)
    events = store.open("pretrain", got["pretrain"]["fingerprint"]).path("events.jsonl").read_text().splitlines()
    starts = [row.get("resumed_from") for row in map(json.loads, events) if row["event"] == "start"]
    assert starts[-1] is not None, "went on from a checkpoint"
    illada("verify", summary["release"], database=database)
    leftovers = [name for name in store.root.names() if "/work/" in name or ".files/" in name]
    assert leftovers == []

    # The same run goes on with its artifacts copied to another store: nothing is built again.
    copy = objects / "copy"
    for name in store.root.names():
        Folder.at(copy).write(name, store.root.read_bytes(name))
    moved = illada("run", config, "--set", f"placement.store={copy}", *place[2:], database=database)
    assert moved.returncode == 0
    assert published(copy) == expected
    for path in copy.rglob("record.json"):
        record = json.loads(path.read_text())
        del record["provenance"]["argv"]  # the command line is recorded as it was
        assert s3_url not in json.dumps(record)
