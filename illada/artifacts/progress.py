"""How a stage tells what it has done, and hears that it should stop."""

from __future__ import annotations

from typing import Protocol


class StageInterrupted(Exception):
    """The run was cancelled or interrupted; what the stage finished so far stays and is used on resume."""


class Progress(Protocol):
    """Handed to every stage. Cheap enough to call for each unit; reporting is rate-limited behind it."""

    def start(self, total: float | None, unit: str) -> None:
        """Begin (or begin anew) a count of `total` units, named in the plural: "documents", "steps"."""

    def update(self, done: float, **figures: float | str) -> None:
        """`done` units so far, with figures worth showing (loss=...). Raises StageInterrupted when asked to stop."""


class NoProgress:
    """For tests and library use: nobody watches, nobody interrupts."""

    def start(self, total: float | None, unit: str) -> None:
        """Ignored."""

    def update(self, done: float, **figures: float | str) -> None:
        """Ignored."""
