"""The command line on a run database of its own, and runs of a small graph to look at with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from illada.artifacts import Artifact, Attempt, Progress
from illada.cli.main import app
from illada.durable.database import open_database
from illada.durable.engine import StageRunner, execute
from illada.durable.runs import RunRegistry

Builds = dict[str, Callable[[Progress], None]]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """A fresh run database, which the commands find by their environment."""
    url = f"sqlite:///{tmp_path / 'illada.db'}"
    monkeypatch.setenv("ILLADA_DATABASE", url)
    opened = open_database(url)
    yield opened
    opened.dispose()


@pytest.fixture
def illada(engine: sa.Engine) -> Callable[..., Result]:
    """``illada("status", "demo")`` in this process; errors come as exceptions."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return invoke


@pytest.fixture
def run_chain(engine: sa.Engine, tmp_path: Path) -> Callable[..., None]:
    """Executes a run of the stages a -> b -> c; `on_build[stage]` is called in the middle of its build."""

    def run(run_id: str = "demo", **on_build: Callable[[Progress], None]) -> None:
        def graph(runner: StageRunner) -> dict[str, Any]:
            previous: Artifact | None = None
            for name in ("a", "b", "c"):

                def build(attempt: Attempt, progress: Progress, name: str = name) -> dict[str, Any]:
                    progress.start(1200, "documents")
                    if name in on_build:
                        on_build[name](progress)
                    (attempt.output / "value").write_text(name)
                    progress.update(1200, kept=1000)
                    return {}

                inputs = {} if previous is None else {"previous": previous.fingerprint}
                previous = runner.stage(name, 1, {}, inputs, build)
            return {}

        registered = RunRegistry(engine).create(run_id, "x: 1\n", {"x": 1}, str(tmp_path / "store"), ["illada"])
        execute(registered, engine, graph)

    return run
