"""How long each rank computes in a step before it waits for the others, and which is the slowest.

The time counted ends where a rank's gradients are complete and their reduction over data-parallel ranks begins. Ranks
of one tensor-parallel group or pipeline wait for each other before that, so they are slow together: a straggler is
found among replicas of the model.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class Stopwatch:
    """The time between two points of a step; on CUDA by events, so that no kernel is waited for before `seconds`."""

    def __init__(self) -> None:
        self._begin = self._end = self._now()

    def start(self) -> None:
        """Now begins the step."""
        self._begin = self._end = self._now()

    def stop(self) -> None:
        """Now the gradients are complete."""
        self._end = self._now()

    def seconds(self) -> float:
        """From start to stop."""
        if isinstance(self._begin, float):
            return float(self._end - self._begin)
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / 1e3

    @staticmethod
    def _now() -> Any:
        if not torch.cuda.is_available():
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def slowest(seconds: Sequence[float]) -> dict[str, Any]:
    """Of the seconds of every rank in one step: their median, the most, and the rank that took them."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    return {"median": statistics.median(seconds), "slowest": seconds[rank], "rank": rank}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of rows of metrics: the rank that was slowest most often, in what share of them, and slowest over median."""
    (rank, count), *_ = Counter(row["compute"]["rank"] for row in rows).most_common(1)
    ratios = [row["compute"]["slowest"] / row["compute"]["median"] for row in rows if row["compute"]["median"]]
    return {"rank": rank, "share": count / len(rows), "slowest_over_median": statistics.fmean(ratios or [1.0])}
