"""A release of a checkpoint: which one, how it is measured, what must hold, and where the result goes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from illada.config.base import Config
from illada.config.data import Decontaminate
from illada.config.evaluation import Evaluate, Generate
from illada.config.release import Release
from illada.config.workflow import RunConfig


class Checkpoint(Config):
    """A training stage by its identity (`version`, `config`, `inputs`), and one of its checkpoints.

    `step` None is the stage's result. A checkpoint that the stage wrote on its way is told by `step` and by the digest
    of its files, `content`: a stage that went back and trained on has another one of that step. `run` is where it was
    found; it names things and decides nothing.
    """

    run: str
    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    step: int | None = Field(default=None, gt=0)
    content: str | None = None

    @model_validator(mode="after")
    def _step_has_content(self) -> Self:
        if (self.step is None) != (self.content is None):
            raise ValueError("give `step` and `content` together, or neither for the stage's result")
        return self


class ReleaseConfig(RunConfig):
    """What `illada release` makes of a run and its options; `to` and `push` are where the release goes besides."""

    workflow: Literal["release"] = "release"
    checkpoint: Checkpoint
    evaluate: Evaluate = Evaluate()
    generate: Generate = Generate()
    decontaminate: Decontaminate = Decontaminate()
    release: Release
    to: str | None = None
    push: str | None = None

    def identity(self) -> dict[str, Any]:
        """Without waivers, which are given when a gate has failed, for that run to go on; without destinations."""
        return self.model_dump(
            mode="json", exclude={"placement": True, "to": True, "push": True, "release": {"waivers"}}
        )
