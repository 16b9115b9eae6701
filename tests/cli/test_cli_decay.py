"""`illada decay` on runs whose training is under way, is over, or was never begun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from illada.artifacts import Attempt, Folder, Progress
from illada.config import ConfigError
from illada.durable.engine import StageFailed, StageRunner, execute
from illada.durable.runs import RunRegistry, UnknownRun
from illada.train.decay import DECISION, REQUEST, Horizon, decide
from illada.train.stage import IDENTITY


def train(engine: sa.Engine, store: Path, error: Exception | None) -> Folder:
    """A run whose stage `pretrain` has begun and ends with `error`, or well; returns its work folder."""
    works = []

    def build(attempt: Attempt, progress: Progress) -> dict[str, Any]:
        works.append(attempt.work)
        attempt.work.write_json(IDENTITY, {})
        if error is not None:
            raise error
        (attempt.output / "word").write_text("done")
        return {}

    def graph(runner: StageRunner) -> dict[str, Any]:
        runner.stage("pretrain", 1, {}, {}, build)
        return {}

    run = RunRegistry(engine).create("demo", "x: 1\n", {"x": 1}, str(store), sys.argv)
    if error is None:
        execute(run, engine, graph)
    else:
        with pytest.raises(StageFailed):
            execute(run, engine, graph)
    return works[0]


def test_unfinished_training_gets_the_request_once(
    illada: Callable[..., Any], engine: sa.Engine, tmp_path: Path
) -> None:
    work = train(engine, tmp_path / "store", ValueError("the power is off"))
    assert "pretrain of demo decays over 300 steps" in illada("decay", "demo", "--over", "300").stdout
    assert work.read_json(REQUEST) == {"over": 300}
    decide(work, Horizon(total_steps=1300, decay_steps=300, reason="requested"))
    assert work.exists(DECISION)
    with pytest.raises(ConfigError, match=r"pretrain decays already, up to step 1300 \(requested\)"):
        illada("decay", "demo", "--over", "200")


def test_nothing_to_decay(illada: Callable[..., Any], engine: sa.Engine, tmp_path: Path) -> None:
    train(engine, tmp_path / "store", None)
    with pytest.raises(ConfigError, match="no training is under way or waits to be resumed"):
        illada("decay", "demo", "--over", "300")
    with pytest.raises(UnknownRun, match="no run 'dema'"):
        illada("decay", "dema", "--over", "300")
