"""A finished run goes on: forked, built again from a stage on, changed, and found damaged. The cluster's tests kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chain import STAGES, illada, published, stage_states

if TYPE_CHECKING:
    from conftest import TinyRun


@pytest.fixture
def uninterrupted(tiny_run: TinyRun) -> Path:
    """The finished run's folder: what these tests do to it stays, other files' tests read the copy of its store."""
    return tiny_run.folder


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_fork_and_rebuild(uninterrupted: Path) -> None:
    """A fork reuses every stage before its own; `--from` builds a stage and those after it again, to the same bytes."""
    database, store = uninterrupted / "runs.db", uninterrupted / "store"
    before = published(store)
    refused = illada("fork", "tiny", "--from", "sft", "--set", "pretrain.steps=13", database=database, check=False)
    assert refused.returncode == 1
    assert "stage pretrain comes before sft and would change (pretrain.training.steps: 12 -> 13)" in refused.stderr

    forked = illada("fork", "tiny", "--from", "sft", "--set", "sft.epochs=2", "--json", database=database)
    assert json.loads(forked.stdout)["state"] == "finished"
    states = stage_states(database, "tiny-fork-1")
    assert {stage for stage, state in states.items() if state == "done"} == {
        "sft", "export-sft", "evaluate-sft", "gates", "release",
    }  # fmt: skip

    illada("resume", "tiny", "--from", "evaluate-sft", database=database)
    assert set(stage_states(database).values()) == {"done"}
    assert not list((store / "export-sft").glob("*/retired-*.json"))
    for stage in STAGES[-3:]:
        (folder,) = (path.parent for path in (store / stage).glob("*/retired-*.json"))
        assert before[stage]["fingerprint"].startswith(folder.name)
        files = json.loads((folder / "record.json").read_text())["files"]
        assert {file["name"]: file["sha256"] for file in files}.items() <= before[stage].items()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_identity(uninterrupted: Path) -> None:
    """No work for the same configuration or other placement; a changed setting rebuilds from its stage on."""
    database = uninterrupted / "runs.db"
    config = uninterrupted / "tiny.yaml"
    before = set((uninterrupted / "store").glob("*/*/record.json"))
    victim = next((uninterrupted / "store" / "tokenize").glob("*/attempt-*/train/*.arrow"))

    illada("run", config, database=database)
    illada("run", config, "--set", "placement.data.workers=1", "--set", "placement.sft.tensor=1", database=database)
    assert set((uninterrupted / "store").glob("*/*/record.json")) == before

    done = illada("run", config, "--set", "data.curate.gopher_quality.min_doc_words=60", database=database, check=False)
    assert done.returncode == 1
    assert "min_doc_words: 50 -> 60" in done.stderr
    assert "--run-id" in done.stderr

    changed = ["--set", "data.pairs.max_characters=150", "--run-id", "other", "--json"]
    summary = json.loads(illada("run", config, *changed, database=database).stdout)
    assert summary["state"] == "finished"
    states = stage_states(database, "other")
    assert {stage for stage, state in states.items() if state == "reused"} == set(STAGES[: STAGES.index("pairs")])

    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    damaged = illada("run", config, database=database, check=False)
    assert damaged.returncode == 1
    assert str(victim) in damaged.stderr
