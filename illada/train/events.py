"""What happened to a training stage besides its steps, one JSON line each: start, checkpoint, restart, fallback, ...

Lines are written by the driver, by Ray Train's controller and by rank 0, each with one append of less than a page,
which a local file system does not interleave. `time` is the wall clock in seconds since the epoch.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
_MOST_CHARACTERS = 3000


def append_event(work: Path, event: str, **fields: Any) -> None:
    """Append an event to `work/events.jsonl`; long texts are cut."""
    row = {"event": event, "time": time.time()} | {
        name: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for name, value in fields.items()
    }
    descriptor = os.open(work / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(row) + "\n").encode())
    finally:
        os.close(descriptor)
