"""What can go wrong in ranks, as the driver sees it; a module of its own, so that reading an error loads nothing."""

from __future__ import annotations


class DivergedError(ValueError):
    """Several updates in a row had to be left out: their loss or gradient was not finite, or a spike."""


class RankError(RuntimeError):
    """A rank ended without an exception of ours: killed, out of memory, crashed, or cut off from the others."""


class RanksStoppedError(RuntimeError):
    """The driver asked the ranks to stop."""
