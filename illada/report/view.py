"""What a report is made of: one run and its stages, as the caller (the command line) found them.

The report knows artifacts, not the run database: whoever knows runs fills these two records in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from illada.artifacts import Artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView:
    """One stage of a run.

    `state` is "pending", "running", "done", "reused", "failed" or "stopped"; `seconds` is the time this run spent in
    the stage (None when it has not ended); `artifact` is None until the stage's output is published.
    """

    name: str
    state: str
    seconds: float | None = None
    reused: bool = False
    attempts: int = 0
    error: str | None = None
    artifact: Artifact | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run, its stages in the order of the chain. `created` is in seconds since the epoch (UTC).

    `state` is "created", "running", "finished", "failed", "interrupted" or "cancelled".
    """

    run_id: str
    state: str
    config_yaml: str
    created: float | None
    stages: Sequence[StageView]

    def artifact(self, stage: str) -> Artifact | None:
        """The artifact of the stage called `stage`, or None while there is none."""
        return next((view.artifact for view in self.stages if view.name == stage), None)
