"""When the learning rate begins to decay, and with that when the stage ends: as planned, or by an event.

The event is a plateau of the loss, if the schedule looks for one, or somebody's wish (`illada decay RUN --over N`). It
is seen by rank 0 alone and travels to the others with the sums of the next step; all of them then know the same
`Horizon`. The decision is written to `decay.json` in the stage's work folder, and goes into every later checkpoint: a
resumed stage begins to decay at the same step, whether or not it was killed in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from illada.artifacts import Folder
from illada.config import Training
from illada.train.plateau import is_plateau, looks

DECISION, REQUEST = "decay.json", "decay-request.json"
_LOOK_SECONDS = 10.0  # between looks for a request in an object store
Reason = Literal["planned", "plateau", "requested"]
REASONS: tuple[Reason, ...] = ("planned", "plateau", "requested")


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizon:
    """Updates in all, and how many of them, at the end, decay. `reason` is why they begin when they do."""

    total_steps: int
    decay_steps: int
    reason: Reason = "planned"

    @classmethod
    def planned(cls, training: Training, total_steps: int) -> Self:
        """Of a stage of so many updates at most, to which nothing has happened."""
        return cls(total_steps=total_steps, decay_steps=round(training.schedule.decay_fraction * total_steps))

    @property
    def start(self) -> int:
        """Updates before the first that decays."""
        return self.total_steps - self.decay_steps

    def begin(self, step: int, over: int, reason: Reason) -> Horizon:
        """The horizon when after `step` updates a decay over `over` more begins, or over as many as are left."""
        over = min(over, self.total_steps - step)
        return Horizon(total_steps=step + over, decay_steps=over, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: nothing, when all goes as planned."""
        return {} if self.reason == "planned" else {"horizon": asdict(self)}


def horizon(work: Folder, manifest: Mapping[str, Any] | None, planned: Horizon) -> Horizon:
    """The horizon of the stage of this work folder: as decided there, or before its checkpoint of that `manifest`."""
    with contextlib.suppress(FileNotFoundError):
        return Horizon(**work.read_json(DECISION))
    return Horizon(**manifest["horizon"]) if manifest and "horizon" in manifest else planned


def decide(work: Folder, decided: Horizon) -> None:
    """Write down for good what was decided."""
    work.write_json(DECISION, asdict(decided))


def request(work: Folder, over: int) -> None:
    """Ask the stage of this work folder to decay over `over` updates from its next step on. ValueError below 1."""
    if over < 1:
        raise ValueError(f"a decay takes at least one step, not {over}")
    work.write_json(REQUEST, {"over": over})


class Watch:
    """Rank 0's look-out for reasons to begin the decay, after each update.

    What it says of the plateau is a function of the rows up to then, so that a resumed stage decides alike.
    """

    def __init__(self, training: Training, work: Folder, rows: list[dict[str, Any]]) -> None:
        self._schedule, self._work = training.schedule, work
        self._losses: dict[int, float] = {}
        self._next = 0.0
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take note of an update's metrics."""
        if self._schedule.plateau is None:
            return
        if not row.get("skipped"):
            self._losses[row["step"]] = row["loss"]
        self._losses.pop(row["step"] - self._schedule.plateau.window, None)

    def wanted(self, step: int, planned: Horizon) -> tuple[int, int]:
        """For the sums of the update after `step`: over how many updates to decay, and REASONS' place of why; or 0, 0.

        The decay begins after that update, which is the one that tells all ranks.
        """
        if planned.reason != "planned" or step >= planned.start:
            return 0, 0
        if over := self._requested():
            return over, REASONS.index("requested")
        plateau = self._schedule.plateau
        look = looks(plateau, self._schedule.warmup_steps, step) if plateau else 0
        if plateau is None or not look:
            return 0, 0
        window = [self._losses[s] for s in range(step - plateau.window + 1, step + 1) if s in self._losses]
        if not is_plateau(window, plateau, look):
            return 0, 0
        return planned.decay_steps, REASONS.index("plateau")

    def _requested(self) -> int:
        if self._work.path is None:
            if time.monotonic() < self._next:
                return 0
            self._next = time.monotonic() + _LOOK_SECONDS
        try:
            return int(self._work.read_json(REQUEST)["over"])
        except FileNotFoundError:
            return 0
