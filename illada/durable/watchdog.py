"""Ends the driver when its Ray cluster is gone: a driver without a cluster hangs for ever and keeps its lease.

One thread asks the cluster's control service who is alive; another one judges the silence, since the question itself
may never be answered. A third one tells how many nodes there are, whenever that changes: it may have to wait for the
database.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

EXIT_RAY_LOST = 71
_LAST_ANSWER_SECONDS = 5.0


class Watchdog:
    """Watches the Ray connection of this process while the context is open."""

    def __init__(self, every: float = 5.0, budget: float = 30.0, on_nodes: Callable[[int], None] | None = None) -> None:
        self.every = every
        self.budget = budget
        self.on_nodes = on_nodes
        self._nodes = 0
        self._closed = threading.Event()
        self._heard = threading.Event()
        self._why = "no answer"

    def __enter__(self) -> Watchdog:
        """Start watching."""
        self._asking = threading.Thread(target=self._ask, name="ray-watchdog-ask", daemon=True)
        self._asking.start()
        threading.Thread(target=self._judge, name="ray-watchdog-judge", daemon=True).start()
        if self.on_nodes is not None:
            threading.Thread(target=self._tell, args=(self.on_nodes,), name="ray-watchdog-tell", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching: the cluster may be shut down now."""
        self._closed.set()
        self._asking.join(_LAST_ANSWER_SECONDS)  # Ray's client must not be shut down under a question

    def _ask(self) -> None:
        import ray

        home = ray.get_runtime_context().get_node_id()
        while not self._closed.is_set():
            try:
                nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
                alive = home in nodes
                self._nodes = len(nodes)
            except Exception as error:  # whatever it is, it is no sign of life
                self._why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            else:
                self._why = "this driver's node is dead"
                if alive:
                    self._heard.set()
            self._closed.wait(self.every)

    def _tell(self, on_nodes: Callable[[int], None]) -> None:
        told = 0
        while not self._closed.wait(0.5):
            if (nodes := self._nodes) != told:
                with contextlib.suppress(SQLAlchemyError):  # told again at the next look
                    on_nodes(nodes)
                    told = nodes

    def _judge(self) -> None:
        silence = 0.0  # counted in own ticks: while this process sleeps, nobody can answer it
        while not self._closed.wait(self.every / 2):
            silence += self.every / 2
            if self._heard.is_set():
                self._heard.clear()
                silence = 0.0
            elif silence > self.budget:
                print(
                    f"illada: the Ray cluster has been gone for {silence:.0f} s ({self._why}); this driver ends now, "
                    "resume the run when the cluster is back",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_RAY_LOST)
