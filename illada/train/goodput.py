"""Goodput: which part of the wall time went into updates that still count.

What lowers it: starting ranks, reading and writing checkpoints, steps undone by a failure, skipped steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Goodput:
    """Follows a stage by its latest step, seen now and then: steps between two looks count as long as the last one.

    Seconds of undone steps are taken off at the mean of all steps, so that nothing but two sums needs to be kept.
    """

    def __init__(self, step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = self._step = step
        self._useful = 0.0
        self._clock = clock
        self._began = clock()

    def observe(self, step: int, seconds: float) -> float:
        """The goodput so far, 0 to 1, when `step` updates are made and the last one took `seconds` (0 if skipped)."""
        if step < self._step:
            kept, made = max(0, step - self._first), self._step - self._first
            self._useful *= kept / made if made else 0.0
            self._first = min(self._first, step)
        else:
            self._useful += (step - self._step) * seconds
        self._step = step
        return min(1.0, self._useful / max(self._clock() - self._began, 1e-9))
