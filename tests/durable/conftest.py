"""A run database and a store in a temporary folder, and small graphs that log what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from illada.artifacts import Artifact, Attempt, Progress
from illada.durable.database import open_database
from illada.durable.engine import StageRunner
from illada.durable.runs import Run, RunRegistry


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """A fresh SQLite run database."""
    opened = open_database(f"sqlite:///{tmp_path / 'illada.db'}")
    yield opened
    opened.dispose()


@pytest.fixture
def new_run(engine: sa.Engine, tmp_path: Path) -> Callable[..., Run]:
    """Registers a run: ``new_run("name", {"identity": 1})``."""

    def create(run_id: str = "demo", identity: Mapping[str, Any] | None = None) -> Run:
        return RunRegistry(engine).create(run_id, "x: 1\n", identity or {"x": 1}, str(tmp_path / "store"), ["illada"])

    return create


@dataclass
class Chain:
    """A graph of stages a -> b -> c, each depending on the one before. `on_build[name]` is called inside its build."""

    values: dict[str, int] = field(default_factory=lambda: {"a": 1, "b": 1, "c": 1})
    versions: dict[str, int] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)
    on_build: dict[str, Callable[[Progress], None]] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)
    runner: StageRunner | None = None

    def __call__(self, runner: StageRunner) -> dict[str, Any]:
        self.runner = runner
        previous: Artifact | None = None
        for name, value in self.values.items():

            def build(attempt: Attempt, progress: Progress, name: str = name, value: int = value) -> dict[str, Any]:
                self.built.append(name)
                progress.start(2, "units")
                progress.update(1)
                if name in self.on_build:
                    self.on_build[name](progress)
                (attempt.output / "value").write_text(f"{name} {value}")
                progress.update(2, loss=0.5)
                return {"value": value}

            inputs = {} if previous is None else {"previous": previous.fingerprint}
            config = {"value": value}
            previous = runner.stage(name, self.versions.get(name, 1), config, inputs, build, self.placement)
        assert previous is not None
        return {"last": previous.fingerprint}

    @property
    def how(self) -> dict[str, str]:
        """What happened to each stage."""
        assert self.runner is not None
        return {outcome.stage: outcome.how for outcome in self.runner.stages}


@pytest.fixture
def chain() -> Chain:
    """The three-stage graph."""
    return Chain()
