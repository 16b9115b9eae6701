"""Signs of life: where each rank is, told every few seconds, and which rank a group that stands still waits for.

A rank that does not move keeps all others waiting in a reduction. Two things can be the matter. Its process may not run
at all (stopped, or its node out of reach): then it tells nothing more. Or its loop stands still in a live process (a
deadlock, storage that does not answer): then it says so, and the others, which wait for it, are a place further.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

Place = Literal["starting", "saving", "computing", "reducing"]
_PLACES: tuple[Place, ...] = ("starting", "saving", "computing", "reducing")  # as they follow each other at one step
_MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """One sign of life: updates made, what the rank is doing after them, its node, seconds since the epoch.

    `last` is told by a rank that ends because its loop did not move.
    """

    step: int
    place: Place
    node: str
    time: float
    last: bool

    def to_bytes(self) -> bytes:
        """As it is sent."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`."""
        return cls(**json.loads(data))


class Pulse:
    """What a rank's loop tells the thread that watches it. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._node = platform.node()
        self._place: tuple[int, Place] = (0, "starting")
        self._since: float | None = None

    def mark(self, step: int, place: Place) -> None:
        """The loop has made `step` updates, and begins with this. How long it takes to start says nothing."""
        self._place, self._since = (step, place), None if place == "starting" else self._clock()

    def end(self) -> None:
        """The loop is over: that it does not move means nothing any more."""
        self._since = None

    def beat(self, last: bool = False) -> Beat:
        """Where the rank is now."""
        step, place = self._place
        return Beat(step=step, place=place, node=self._node, time=time.time(), last=last)

    def stands_still(self, seconds: float) -> bool:
        """Whether the loop has been at one place for longer than this."""
        since = self._since
        return since is not None and self._clock() - since > seconds


def blame(beats: Mapping[int, Beat], frozen: Sequence[int], seconds: float) -> str | None:
    """Why a group stood still for `seconds`, by the last sign of life of its ranks; None when that is not why it ended.

    Ranks tell where they are at least four times in `seconds`, so that one that has not done so for half of it does
    not run; clocks of nodes are taken to agree to within a quarter. `frozen` are the ranks that Ray Train got no answer
    from; those that froze before their first sign of life are for Ray to describe.
    """
    if not (frozen or any(beat.last for beat in beats.values())) or not set(frozen) <= beats.keys():
        return None
    newest = max(beat.time for beat in beats.values())
    silent = [rank for rank, beat in beats.items() if newest - beat.time > seconds / 2]
    if silent:
        return f"silent for {seconds:g} s or longer: {_named(beats, silent)}"
    order = {rank: (beat.step, _PLACES.index(beat.place)) for rank, beat in beats.items()}
    behind = [rank for rank in beats if order[rank] == min(order.values())]
    if len(behind) < len(beats):
        return f"stood still for {seconds:g} s while the others waited: {_named(beats, behind)}"
    return f"all {len(beats)} ranks stood still for {seconds:g} s at the same place: {_named(beats, behind)}"


def _named(beats: Mapping[int, Beat], ranks: list[int]) -> str:
    named = [
        f"rank {rank} on {beats[rank].node}, {beats[rank].place} after step {beats[rank].step}"
        for rank in sorted(ranks)[:_MOST_NAMED]
    ]
    more = f"; and {len(ranks) - _MOST_NAMED} more ranks" if len(ranks) > _MOST_NAMED else ""
    return "; ".join(named) + more
