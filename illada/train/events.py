"""What happened to a training stage besides its steps, one JSON line each: start, checkpoint, restart, fallback, ...

Lines are written by the driver, by Ray Train's controller and by rank 0. `time` is the wall clock in seconds since the
epoch.
"""

from __future__ import annotations

import json
import time
from typing import Any

from illada.artifacts import Folder

EVENTS = "events.jsonl"
_MOST_CHARACTERS = 3000


def append_event(work: Folder, event: str, **fields: Any) -> None:
    """Append an event to `events.jsonl` of `work`; long texts are cut."""
    row = {"event": event, "time": time.time()} | {
        name: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for name, value in fields.items()
    }
    work.append_line(EVENTS, json.dumps(row))


class EventCount:
    """How many events of one kind there are, looked up now and then: in an object store every event is an object."""

    def __init__(self, work: Folder, event: str, every: float = 60.0) -> None:
        self._work = work
        self._event = event
        self._every = every
        self._next = 0.0
        self._count = 0

    def __call__(self) -> int:
        """The count, `every` seconds old at most."""
        if time.monotonic() >= self._next:
            self._count = sum(json.loads(line)["event"] == self._event for line in self._work.read_lines(EVENTS))
            self._next = time.monotonic() + self._every
        return self._count
