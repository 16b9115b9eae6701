"""`illada resume` and `illada fork` from the command line: what is refused, and what a fork takes over."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from illada.config import ConfigError, dump_config
from illada.durable.engine import StageRunner, execute
from illada.durable.runs import RunRegistry
from workflows import crawl_to_release
from workflows.registry import Workflow, load_workflow

DEMO = Path(__file__).parents[2] / "configs" / "workflows" / "demo.yaml"
STAGES = ("curate", "deduplicate", "tokenizer", "tokenize", "pretrain")


@pytest.fixture(autouse=True)
def small_graph(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chain's first stages with builds that write one word; lists what was built."""
    built: list[str] = []
    real = crawl_to_release.WORKFLOW

    def graph(runner: StageRunner, config: Any) -> dict[str, Any]:
        configs, previous = real.stage_configs(config), ""
        for name in STAGES:

            def build(attempt: Any, progress: Any, name: str = name) -> dict[str, Any]:
                built.append(name)
                (attempt.output / "word").write_text(name)
                return {}

            previous = runner.stage(name, 1, configs[name], {"previous": previous}, build).fingerprint
        return {"last": previous}

    small = Workflow(check=lambda config: None, graph=graph, stage_configs=real.stage_configs)
    monkeypatch.setattr(crawl_to_release, "WORKFLOW", small)
    return built


@pytest.fixture
def demo(engine: sa.Engine, tmp_path: Path, small_graph: list[str]) -> str:
    """A finished run; what it built is forgotten."""
    config = load_workflow(
        DEMO, [f"placement.store={tmp_path}/store", f"placement.output={tmp_path}", "placement.ray_cpus=4"]
    )
    run = RunRegistry(engine).create("demo", dump_config(config), config.identity(), f"{tmp_path}/store", sys.argv)
    execute(run, engine, lambda runner: crawl_to_release.WORKFLOW.graph(runner, config), prepare=lambda: None)
    small_graph.clear()
    return "demo"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builds need none."""
    from illada.durable.cluster import Cluster

    monkeypatch.setattr(Cluster, "start", lambda self: None)


def test_fork_builds_from_its_stage_on(
    illada: Callable[..., Any], demo: str, small_graph: list[str], engine: sa.Engine
) -> None:
    changed = ["--from", "tokenize", "--set", "pretrain.steps=401", "--set", "data.tokenize.held_out=0.01"]
    done = illada("fork", demo, *changed, "--json")
    assert "run demo-fork-1 reuses acquire-web, acquire-code, curate, deduplicate, tokenizer of demo" in done.stderr
    assert json.loads(done.stdout)["state"] == "finished"
    assert small_graph == ["tokenize", "pretrain"]
    fork = RunRegistry(engine).get("demo-fork-1")
    assert (fork.parent, fork.fork_stage, fork.store) == ("demo", "tokenize", RunRegistry(engine).get("demo").store)
    assert "forked from demo at tokenize" in illada("status", "demo-fork-1").stdout
    small_graph.clear()
    illada("fork", "demo-fork-1", "--from", "pretrain", "--set", "pretrain.steps=402", "--run-id", "longer")
    illada("fork", demo, "--from", "pretrain", "--set", "pretrain.steps=403")
    assert small_graph == ["pretrain", "pretrain"]
    assert {run.run_id for run in RunRegistry(engine).list()} == {"demo", "demo-fork-1", "demo-fork-2", "longer"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--from", "sft", "--set", "sft.epochs=2"], "run demo has not come to a stage 'sft'"),
        (["demo", "--from", "tokenise", "--set", "sft.epochs=2"], "did you mean tokenize"),
        (
            ["demo", "--from", "pretrain", "--set", "data.curate.gopher_quality.min_doc_words=60"],
            "stage curate comes before pretrain",
        ),
        (["demo", "--from", "pretrain"], "nothing differs from demo"),
        (["dema", "--from", "pretrain", "--set", "pretrain.steps=401"], "no run 'dema'; did you mean demo"),
        (["demo", "--from", "pretrain", "--set", "pretrain.steps=401", "--run-id", "Not valid"], "name: "),
    ],
)
def test_fork_that_makes_no_sense(
    illada: Callable[..., Any], demo: str, engine: sa.Engine, arguments: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        illada("fork", *arguments)
    assert len(RunRegistry(engine).list()) == 1


def test_resume_from_a_stage(illada: Callable[..., Any], demo: str, small_graph: list[str]) -> None:
    with pytest.raises(ConfigError, match="run demo is finished; to build a part of it again: --from STAGE"):
        illada("resume", demo)
    done = illada("resume", demo, "--from", "tokenizer", "--json")
    assert "builds again: tokenizer, tokenize, pretrain" in done.stderr
    assert json.loads(done.stdout)["state"] == "finished"
    assert small_graph == ["tokenizer", "tokenize", "pretrain"]
    with pytest.raises(ConfigError, match=r"has not come to a stage 'tokenise'; did you mean tokenize"):
        illada("resume", demo, "--from", "tokenise")
