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
