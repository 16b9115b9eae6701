"""In place of the actor pool: one worker in this process, so that processor time can be told whatever else runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from illada.artifacts import Folder, Progress
from illada.config import DataPlacement
from pipelines.ledger import Ledger, Results, Unit, mark
from pipelines.pool import Worker


class InProcess:
    """What a stage asks of `ActorPool`."""

    def __init__(self, factory: Callable[[], Worker], placement: DataPlacement) -> None:
        self._worker = factory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def run(
        self, units: Sequence[Unit], work: Folder, progress: Progress, measure: str, most_quarantined: int = 0
    ) -> Results:
        """See `ActorPool.run`; nothing is quarantined, as a worker that dies takes this process with it."""
        ledger = Ledger(units, work)
        for unit in ledger.unfinished:
            folder = work / unit.name
            output = Path(folder.url)
            output.mkdir(parents=True)
            ledger.add(unit, mark(unit, work, output, folder, self._worker.run(unit, output)))
        return Results(ledger)
