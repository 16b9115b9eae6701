"""The fence of an unfinished stage: which builder may still write to its `work`.

Every builder holds a lease with an epoch; `work/epoch.json` has the newest one. An older builder that was thought dead
finds a newer epoch there, or the folder gone as the stage is published, and stops.
"""

from __future__ import annotations

import time

from illada.artifacts.folder import Folder

_EPOCH = "epoch.json"
_REMOTE_SECONDS = 5.0


class StaleDriverError(ValueError):
    """Another driver with a newer lease owns this stage: the only right thing to do is to stop."""


def newest_epoch(work: Folder) -> int | None:
    """The newest builder's epoch; None when there has been none, or the stage is published."""
    try:
        return int(work.read_json(_EPOCH)["epoch"])
    except FileNotFoundError:
        return None


def claim(work: Folder, epoch: int) -> None:
    """Make `epoch` the one that may write. Raises StaleDriverError when a newer builder has been here."""
    newest = newest_epoch(work)
    if newest is not None and newest > epoch:
        raise _stale(work, newest, epoch)
    work.write_json(_EPOCH, {"epoch": epoch})


def check_fence(work: Folder, epoch: int) -> None:
    """Raises StaleDriverError unless `epoch` is still the newest and the stage unpublished. One small read."""
    newest = newest_epoch(work)
    if newest is None:
        raise StaleDriverError(f"{work}: the stage has been published by another driver")
    if newest > epoch:
        raise _stale(work, newest, epoch)


class Fence:
    """`check_fence`, for those who ask at every step: an object store is asked every few seconds only."""

    def __init__(self, work: Folder, epoch: int, every: float = _REMOTE_SECONDS) -> None:
        self.work, self.epoch = work, epoch
        self._every = every if work.path is None else 0.0
        self._checked = float("-inf")

    def check(self) -> None:
        """See `check_fence`."""
        if time.monotonic() - self._checked >= self._every:
            check_fence(self.work, self.epoch)
            self._checked = time.monotonic()


def _stale(work: Folder, newest: int, epoch: int) -> StaleDriverError:
    return StaleDriverError(f"{work}: a driver with fencing epoch {newest} has taken over from this one ({epoch})")
