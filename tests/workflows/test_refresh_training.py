"""A model pretrained on one snapshot of a corpus and then on the next, and released with all of that in its papers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from refresh_bench import configuration, execute_graph, run_refresh, write_crawl, write_lines, write_listing

from illada.artifacts import ArtifactError, Store
from illada.config import (
    ConfigError,
    Evaluate,
    Placement,
    Release,
    ReleaseConfig,
    WorkflowConfig,
    dump_config,
    parse_config,
)
from illada.data.corpora import open_snapshot
from illada.durable.engine import RunInterrupted, StageStatus
from illada.release.verify import verify
from workflows.checkpoints import choose, find_checkpoints
from workflows.crawl_to_release import crawl_to_release
from workflows.registry import parse_workflow
from workflows.release import check, release_checkpoint

SCHEDULE = {"peak": 1e-2, "minimum": 1e-3, "warmup_steps": 2, "decay": "linear", "decay_fraction": 0.3}
LAYOUT = {"micro_batch": 4, "cpus_per_rank": 0.5, "checkpoint_steps": 4}


def model_configuration(root: Path, corpus: dict[str, Any], **changes: Any) -> WorkflowConfig:
    value: dict[str, Any] = {
        "name": "model",
        "data": {
            "corpus": corpus,
            "tokenizer": {"vocab_size": 400},
            "pairs": {"max_pairs": 40, "max_characters": 200, "held_out": 0.2},
        },
        "model": {
            "layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "ffn_size": 64, "vocab_size": 400,
            "max_positions": 64,
        },
        "pretrain": {"window": 64, "global_batch": 8, "steps": 120, "schedule": SCHEDULE},
        "sft": {"window": 64, "global_batch": 8, "steps": 4, "schedule": SCHEDULE},
        "evaluate": {"windows": 8, "draws": 2},
        "generate": {"max_new_tokens": 8, "block": 4, "steps_per_block": 4, "prompts": ["Hi"]},
        "release": {
            "model_name": "tiny",
            "waivers": dict.fromkeys(("evaluation", "decontamination", "licences"), "a test"),
        },
        "placement": {"store": str(root / "store"), "data": {"workers": 2}, "pretrain": LAYOUT, "sft": LAYOUT},
        **changes,
    }  # fmt: skip
    return parse_config(value, WorkflowConfig)


def train_model(root: Path, config: WorkflowConfig, run_id: str = "model", **options: Any) -> dict[str, Any]:
    return execute_graph(config, root / "runs.db", run_id, lambda runner: crawl_to_release(runner, config), **options)


class StopInPretraining:
    """A listener that interrupts this process's run once there is a checkpoint."""

    done = False

    def __call__(self, status: StageStatus) -> None:
        if status.stage == "pretrain" and (status.done or 0) >= 8 and not self.done:
            self.done = True  # a second signal would end the process
            os.kill(os.getpid(), signal.SIGINT)


def test_configuration_of_a_corpus(tmp_path: Path) -> None:
    moves = [{"step": 6, "snapshot": 2}]
    config = model_configuration(tmp_path, {"name": "web", "snapshot": 1, "moves": moves})
    assert parse_workflow(dump_config(config)) == config
    assert set(config.identity()["data"]) == {"corpus", "decontaminate", "tokenizer", "pairs"}
    for corpus, fault in (
        ({"name": "web", "snapshot": 2, "moves": moves}, "moves go forward: step 6 to snapshot 2 does not follow"),
        ({"name": "web", "snapshot": 1, "moves": [*moves, {"step": 6, "snapshot": 3}]}, "moves go forward: step 6"),
        (
            {"name": "web", "snapshot": 1, "moves": [{"step": 120, "snapshot": 2}]},
            "step 120 is not one of .* 120 steps",
        ),
        ({"name": "../web", "snapshot": 1}, r"data\.corpus\.name"),
    ):
        with pytest.raises(ConfigError, match=fault):
            model_configuration(tmp_path, corpus)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_pretraining_moves_to_a_newer_snapshot(tmp_path: Path) -> None:
    refresh = configuration(tmp_path)
    write_lines(tmp_path / "lines" / "a.jsonl", range(40))
    write_crawl(tmp_path / "crawl" / "one.warc.gz", range(100, 140))
    write_listing(tmp_path / "warc.paths.gz", ["one.warc.gz"])
    run_refresh(refresh, tmp_path / "runs.db")
    write_lines(tmp_path / "lines" / "b.jsonl", range(200, 240))
    run_refresh(refresh, tmp_path / "runs.db")
    store = Store(tmp_path / "store")
    one, two = open_snapshot(store, "web", 1), open_snapshot(store, "web", 2)

    with pytest.raises(ArtifactError, match="corpus 'web' has no snapshot 7: it has 1 to 2"):
        train_model(tmp_path, model_configuration(tmp_path, {"name": "web", "snapshot": 7}), "none")

    with pytest.raises(RunInterrupted):
        train_model(
            tmp_path, model_configuration(tmp_path, {"name": "web", "snapshot": 1}), listener=StopInPretraining()
        )
    corpus = {"name": "web", "snapshot": 1, "moves": [{"step": 100, "snapshot": 2}]}
    result = train_model(tmp_path, model_configuration(tmp_path, corpus), "moved")
    released = store.open("release", result["release"])
    provenance = json.loads(released.path("provenance.json").read_text())
    artifacts = {artifact["fingerprint"]: artifact for artifact in provenance["artifacts"]}
    (pretrain,) = (artifact for artifact in artifacts.values() if artifact["stage"] == "pretrain")
    assert pretrain["inputs"] == {"tokens": one.fingerprint, "tokens-from-step-100": two.fingerprint}
    assert {one.fingerprint, two.fingerprint} <= artifacts.keys()
    sources = {
        source["source"] + ": " + file["made_from"][0]["name"]
        for source in provenance["sources"]
        for file in source["files"]
    }
    assert sources == {"crawl: one.warc.gz", "lines: a.jsonl", "lines: b.jsonl"}
    card = released.path("README.md").read_text()
    first, second = (f"snapshot web@{n}\n(`{snapshot.fingerprint[:12]}`)" for n, snapshot in ((1, one), (2, two)))
    assert f"Data of pretrain: {first}, from step 100 on {second}." in card

    trained = store.open("pretrain", pretrain["fingerprint"])
    events = [json.loads(line) for line in trained.path("events.jsonl").read_text().splitlines()]
    (move,) = (event for event in events if event["event"] == "move")
    assert (move["step"], move["data"]) == (100, two.shards("train").fingerprint)
    (inherited,) = (event for event in events if event["event"] == "inherited")
    assert inherited["step"] >= 8, "training went on from where the run without the move had come"
    rows = [json.loads(line)["step"] for line in trained.path("metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 121))
    manifest = json.loads(trained.path("checkpoint/checkpoint.json").read_text())
    assert manifest["loader"]["data"] == one.shards("train").fingerprint
    assert manifest["loader"]["moves"] == [[100, two.shards("train").fingerprint]]
    assert [used["snapshot"] for used in trained.statistics["snapshots"]] == ["web@1", "web@2"]

    found = find_checkpoints(store, "model", [("pretrain", trained.fingerprint)])
    config = ReleaseConfig(
        name="other",
        checkpoint=choose(found, "model", None, None).checkpoint,
        evaluate=Evaluate(windows=8, draws=2),
        release=Release(
            model_name="base", waivers=dict.fromkeys(("evaluation", "decontamination", "licences"), "a test")
        ),
        placement=Placement(store=str(tmp_path / "store")),
    )
    check(config)
    result = execute_graph(config, tmp_path / "runs.db", "other", lambda runner: release_checkpoint(runner, config))
    base = store.open("release", result["release"])
    assert len(verify(base.local())) == 5
    assert f"Data of pretrain: {first}, from step 100 on {second}." in base.path("README.md").read_text()
    facts = json.loads(base.path("gates.json").read_text())["facts"]
    searched = {snapshot.built("deduplicate").fingerprint for snapshot in (one, two)}
    assert set(facts["decontamination"]["trained_on"].values()) == searched
