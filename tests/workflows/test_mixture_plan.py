"""A mixture is part of what a stage is, checked with the configuration, and planned where the shards are there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from grouped_shards import write_grouped
from rich.console import Console
from typer.testing import CliRunner

from illada.artifacts import Attempt, StageIdentity, Store
from illada.cli.main import app
from illada.cli.mixture import mixture_table
from illada.config import ConfigError, Mixture, WorkflowConfig, dump_config, parse_config
from illada.data.corpora import publish
from illada.data.snapshots import build_snapshot, read_snapshot
from workflows.crawl_to_release import stage_configs
from workflows.fork import fork_config

SCHEDULE = {"peak": 1e-2, "minimum": 1e-3, "warmup_steps": 2, "decay": "linear", "decay_fraction": 0.3}
MIXTURE = {"sources": {"web": {"weight": 3}, "code": {"weight": 1}}, "temperature": 2}
SIZES = {("code", "python"): [3000], ("web", "de"): [1000], ("web", "en"): [9000, 7000]}


def raw(mixture: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    origin = {"sources": [{"kind": "warc", "name": name, "paths": ["*.gz"]} for name in ("web", "code")]}
    training = {"window": 32, "global_batch": 4, "steps": 100, "schedule": SCHEDULE}
    return {
        "name": "tiny",
        "data": {"tokenizer": {"vocab_size": 300}, **({"mixture": mixture} if mixture else {}), **(data or origin)},
        "model": {
            "layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "ffn_size": 64, "vocab_size": 300,
            "max_positions": 64,
        },
        "pretrain": training,
        "sft": training,
        "release": {"model_name": "tiny"},
    }  # fmt: skip


def parse(*arguments: Any, **data: Any) -> WorkflowConfig:
    return parse_config(raw(*arguments, **data), WorkflowConfig)


def test_a_mixture_changes_pretraining_and_nothing_before_it() -> None:
    plain, mixed = parse(), parse(MIXTURE)
    assert "mixture" not in plain.identity()["data"] and "mixture" not in dump_config(plain)
    assert parse_config(yaml.safe_load(dump_config(mixed)), WorkflowConfig) == mixed
    before, after = stage_configs(plain), stage_configs(mixed)
    assert {name for name in after if before[name] != after[name]} == {"pretrain"}
    assert after["pretrain"] == {**before["pretrain"], "mixture": Mixture.model_validate(MIXTURE).identity()}
    fork, shared = fork_config(mixed, "pretrain", ["data.mixture.temperature=1.5"], "other")
    assert isinstance(fork, WorkflowConfig) and fork.data.mixture is not None and fork.data.mixture.temperature == 1.5
    assert shared[-1] == "tokenize"


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"sources": {"wbe": {}}}, r"no source is called wbe; there are web, code"),
        ({"sources": {"web": {"weight": 1}}}, r"give code a weight too"),
        ({"sources": {"web": {"weight": 1}, "code": {}}}, r"sources code: with a weight for web, each needs one"),
        ({"sources": {"web": {"weight": 0}, "code": {"weight": 0}}}, r"every weight is 0"),
        ({"sources": {"web": {"weight": 1, "tokens": 5}}}, r"a `weight` or `tokens`, not both"),
        ({"languages": {"en": {"minimum": 0.5, "maximum": 0.4}}}, r"minimum 0\.5 is above maximum 0\.4"),
        ({"languages": {"en": {"minimum": 0.6}, "fr": {"minimum": 0.6}}}, r"sum up to more than 1"),
        ({"temperature": 0}, r"temperature"),
        ({"epochs": -1}, r"epochs"),
    ],
)
def test_what_cannot_work_is_refused(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(mixture)


def test_a_mixture_needs_steps_and_one_set_of_shards() -> None:
    value = raw(MIXTURE)
    value["pretrain"] = {**value["pretrain"], "steps": None, "epochs": 2}
    with pytest.raises(ConfigError, match=r"give pretrain\.steps, not pretrain\.epochs"):
        parse_config(value, WorkflowConfig)
    with pytest.raises(ConfigError, match=r"leave out data\.corpus\.moves"):
        parse(MIXTURE, corpus={"name": "web", "snapshot": 1, "moves": [{"step": 5, "snapshot": 2}]})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose corpus `c` has one snapshot, of the groups in SIZES."""
    root = tmp_path_factory.mktemp("corpus") / "store"
    store = Store(root)

    def tokens(attempt: Attempt) -> dict[str, Any]:
        write_grouped(attempt.output / "train", SIZES, 300)
        empty: dict[str, Any] = {"documents": 0, "tokens": 0, "bytes": 0, "shards": 0}
        return {"train": empty, "held_out": empty, "languages": {}, "sources": {}}

    def make(stage: str, build: Any) -> Any:
        with store.attempt(StageIdentity(stage=stage, version=1, config={}, inputs={})) as attempt:
            return store.publish(attempt, build(attempt), {}, 0.0)

    built = {"tokenize": make("tokenize", tokens)}
    built |= {stage: make(stage, lambda attempt: {}) for stage in ("tokenizer", "discover")}
    made = make("snapshot", lambda attempt: build_snapshot(store, "c", {}, None, {}, built, attempt))
    assert publish(read_snapshot(store, made), built["discover"])
    return root


def plan(store: Path, tmp_path: Path, mixture: dict[str, Any], *options: str) -> Any:
    value = raw(mixture, corpus={"name": "c", "snapshot": 1})
    value["data"]["pairs"] = {"files": [str(tmp_path / "pairs.jsonl")]}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**value, "placement": {"store": str(store)}}))
    return CliRunner().invoke(app, ["plan", str(config), *options])


def test_the_plan_of_a_corpus_shows_the_mixture(store: Path, tmp_path: Path) -> None:
    result = plan(store, tmp_path, MIXTURE, "--json")
    assert result.exit_code == 0, result.output
    rows = {(row["source"], row["language"]): row for row in json.loads(result.stdout)["mixture"]}
    assert set(rows) == set(SIZES)
    assert sum(row["planned"] for row in rows.values()) == 100 * 4 * 32
    assert rows["code", "python"]["planned"] == 100 * 4 * 32 // 4
    german, english = (rows["web", language] for language in ("de", "en"))
    ratio = (english["tokens"] / german["tokens"]) ** 0.5
    assert english["planned"] / german["planned"] == pytest.approx(ratio, rel=0.02)
    shown = plan(store, tmp_path, MIXTURE).stdout
    assert "code python" in shown and "25.0%" in shown and "achieved" not in shown
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(mixture_table([{**row, "achieved": 64} for row in rows.values()], trained=True))
    assert "achieved" in console.export_text()


def test_a_plan_that_cannot_be_says_so(store: Path, tmp_path: Path) -> None:
    result = plan(store, tmp_path, {**MIXTURE, "epochs": 0.1})
    assert isinstance(result.exception, ConfigError)
    assert "its sources can give" in str(result.exception) and "need epochs: code 1.08, web 0.57" in str(
        result.exception
    )
    result = plan(store, tmp_path, {"sources": {"web": {"weight": 1}, "wiki": {"weight": 1}}})
    assert "no source is called wiki; there are code, web" in str(result.exception)
