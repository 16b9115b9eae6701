"""`illada release` from start to end: of a killed run's checkpoint, killed itself, stopped by gates, and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chain import command, illada, published, seed, stage_states, start_and_kill_in, write_config

from illada.config import dump_config
from illada.durable.database import open_database
from illada.durable.runs import RunRegistry
from illada.release.verify import verify
from workflows.registry import load_workflow

if TYPE_CHECKING:
    from conftest import TinyRun

MADE = ("checkpoint", "export-base", "evaluate-base", "gates", "release")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, tiny_run: TinyRun) -> Path:
    """A folder with a run that was killed in pretraining, after its first checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    config = write_config(folder, tiny_corpus)
    seed(folder / "store", tiny_run.store, before="pretrain")
    environment = {**os.environ, "ILLADA_DATABASE": f"sqlite:///{folder / 'runs.db'}"}
    changes = (
        "pretrain.steps=4000",
        "placement.pretrain.tensor=1",
    )
    driver = subprocess.Popen(
        command("run", config, *(part for change in changes for part in ("--set", change))),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    deadline = time.monotonic() + 240
    while not list((folder / "store").glob("pretrain/*/work/checkpoints/step-*")):
        assert driver.poll() is None and time.monotonic() < deadline, stage_states(folder / "runs.db")
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _await_orphans(folder)
    return folder


def _await_orphans(folder: Path) -> None:
    """Until the ranks have noticed that their driver is gone, and write no more checkpoints."""
    before: set[Path] = set()
    while (now := set((folder / "store").glob("pretrain/*/work/checkpoints/*"))) != before:
        before = now
        time.sleep(5)


def newest(folder: Path) -> str:
    rows = json.loads(illada("release", "tiny", "--list", "--json", database=folder / "runs.db").stdout)
    assert {(row["stage"], row["kind"]) for row in rows} == {("pretrain", "unfinished")}
    return str(max(row["step"] for row in rows))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_and_resumed_is_the_same_release(killed: Path) -> None:
    database, step = killed / "runs.db", newest(killed)
    name = f"tiny-pretrain-{step}-release"
    start: list[str | Path] = ["release", "tiny", "--step", step]
    start_and_kill_in("checkpoint", start, database, run_id=name)
    start_and_kill_in("export-base", ["resume", name], database, run_id=name)
    start_and_kill_in("release", ["resume", name], database, run_id=name)  # perhaps just after its end
    illada(*start, database=database)
    assert set(stage_states(database, name)) == set(MADE)
    folder = killed / "output" / name / "release"
    assert len(verify(folder)) == 5
    assert f"pretrain, to step {step}" in (folder / "README.md").read_text()
    resumed = {stage: files for stage, files in published(killed / "store").items() if stage in MADE}

    for stage in MADE:
        shutil.rmtree(killed / "store" / stage)
    illada(*start, "--run-id", "again", database=database)
    assert {stage: files for stage, files in published(killed / "store").items() if stage in MADE} == resumed

    (work,) = (killed / "store").glob("pretrain/*/work")
    work.rename(killed / "work-is-gone")
    try:
        done = illada(*start, "--to", killed / "copy", "--push", f"file://{killed / 'pushed'}", database=database)
        assert "release: reused" in done.stdout
    finally:
        (killed / "work-is-gone").rename(work)
    for copy in ("copy", "pushed"):
        assert len(verify(killed / copy)) == 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gate_ends_the_run_and_a_waiver_lets_it_go_on(killed: Path, tiny_corpus: Path) -> None:
    """The benchmark is the corpus itself: all of it is found."""
    database, step = killed / "runs.db", newest(killed)
    benchmark = f"[{{name: own, paths: ['{tiny_corpus}'], columns: [text]}}]"
    start = ["release", "tiny", "--step", step, "--run-id", "gated", "--set", f"decontaminate.benchmarks={benchmark}"]
    refused = illada(*start, "--set", "release.waivers={licences: a test}", database=database, check=False)
    assert refused.returncode == 1
    assert "gates failed: 1 of 4 gates failed, nothing is released: decontamination: own: " in refused.stderr
    assert "--set 'release.waivers.decontamination=REASON'" in refused.stderr
    assert stage_states(database, "gated")["gates"] == "failed"
    assert not (killed / "output" / "gated" / "release").exists()

    waive = ["--set", "release.waivers={licences: a test}", "--waive", "decontamination=it is the corpus"]
    summary = json.loads(illada(*start, *waive, "--json", database=database).stdout)
    outcomes = {row["gate"]: (row["outcome"], row["waiver"]) for row in summary["gates"]}
    assert outcomes["decontamination"] == ("waived", "it is the corpus")
    card = (Path(summary["release"]) / "README.md").read_text()
    assert "| it is the corpus |" in card and "| own | " in card
    assert len(verify(Path(summary["release"]))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiyn"], "no run 'tiyn'; did you mean tiny?"),
        (["tiny"], "run 'tiny': training has not ended; its checkpoints: none"),
        (["tiny", "--stage", "sft", "--step", "3"], "sft has no checkpoint of step 3"),
    ],
)
def test_what_cannot_be_released_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    config = load_workflow(write_config(tmp_path))
    engine = open_database(f"sqlite:///{tmp_path / 'runs.db'}")
    RunRegistry(engine).create("tiny", dump_config(config), config.identity(), str(tmp_path / "store"), [])
    engine.dispose()
    done = illada("release", *arguments, database=tmp_path / "runs.db", check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
