"""Phases of a stage: what the units of one leave, those of the next read; all run on one pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from illada.artifacts import Attempt, Folder, Progress
from pipelines.exchange import share_folders
from pipelines.pool import Results, Unit


class Pool(Protocol):
    """What phases ask of `pipelines.pool.ActorPool`."""

    def run(self, units: Sequence[Unit], work: Folder, progress: Progress, measure: str) -> Results:
        """The results of `units`, in their order."""


class Phases:
    """Runs them one after another, each in a folder of its own in the stage's work folder."""

    def __init__(self, pool: Pool, attempt: Attempt, progress: Progress) -> None:
        self._pool, self._attempt, self._progress = pool, attempt, progress

    def run(
        self, name: str, task: str, payloads: Sequence[Mapping[str, Any]], weights: Sequence[float] = ()
    ) -> Results:
        """A unit for each payload, to which `task` is added; weights count documents, else each unit is one range."""
        units = [
            Unit(name=f"{number:06d}", payload={"task": task, **payload}, weight=weights[number] if weights else 1.0)
            for number, payload in enumerate(payloads)
        ]
        return self._pool.run(units, self._attempt.work / name, self._progress, "documents" if weights else "ranges")

    def folders(self, name: str, results: Results) -> dict[str, str]:
        """Where a phase left its files, for payloads of the next; read by `pipelines.exchange.shared_folders`."""
        return share_folders(results, name, self._attempt)
