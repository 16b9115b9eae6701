"""Long calls into libraries that release the interpreter, made so that an interruption is heard meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from illada.artifacts import Progress

T = TypeVar("T")
_POLL_SECONDS = 0.5


def in_thread(call: Callable[[], T], progress: Progress, what: str) -> T:
    """What `call` returns or raises; while it lasts, `progress` is told that it does, and may raise."""
    results: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # handed to the waiting thread
            errors.append(error)

    progress.start(None, what)
    thread = threading.Thread(target=work, name=what, daemon=True)
    thread.start()
    while thread.is_alive():
        progress.update(0)
        thread.join(_POLL_SECONDS)
    if errors:
        raise errors[0]
    return results[0]
