"""Per-step figures of training: summed over micro-batches and data-parallel ranks, then one JSON line a step.

A row of `metrics.jsonl` is one update:

    step              updates made so far, this one included
    epoch             epoch of its windows, from 0
    loss              sum over masked positions of cross-entropy / q, over all tokens of the global batch (nats)
    lr, grad_norm     of this update; the norm is before clipping
    masked_fraction   masked positions over all positions
    by_noise          mean unweighted cross-entropy by noise level t in tenths, null where nothing fell
    loss_by_noise     the loss of each tenth's positions alone, null where there are none (nats)
    positions_by_noise  how many these are, masked or not: the mean of `loss_by_noise`, so weighted, is `loss`
    tokens            tokens seen so far, a row counting for a whole window also where it is a conversation
    seconds           of this step alone; `tokens_per_second` follows from it
    compute           seconds that ranks computed before they waited for others: `median`, `slowest`, and which `rank`

Of an autoregressive objective every position counts as masked, q is 1, and nothing falls to any noise level.
A step that changed no weight has the reason (`illada.train.guard`) as `skipped`, and null for what is not a number.
After a resume the rows of undone steps are dropped, so that the file is an uninterrupted run's but for timings.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from illada.artifacts import Folder

if TYPE_CHECKING:
    from torch import Tensor

    from illada.train.guard import Reason

NOISE_BUCKETS = 10
SUMS = 3 + 4 * NOISE_BUCKETS
METRICS = "metrics.jsonl"
_PART_BYTES = 1 << 18
_PART_SECONDS = 5.0


def add_micro_batch(
    sums: Tensor, cross_entropy: Tensor, weight: Tensor, level: Tensor | None, mask: Tensor, window: int
) -> None:
    """Add one micro-batch to `sums`, float64 [SUMS or more]: summable over ranks, read by `step_row`.

    Args:
        sums: changed in place; what follows the first SUMS elements is left alone.
        cross_entropy: float32 [masked] nats of the masked positions, in the order of `mask`.
        weight: float32 [b, s], 1 / q where masked.
        level: float32 [b, s], the noise level t; None where there is no noise, and so nothing to tell by it.
        mask: bool [b, s].
        window: tokens a row counts for, s or more (rows of conversations are as long as they need to be).
    """
    nats = cross_entropy.detach().double()
    weighted = nats * weight[mask].double()
    sums[0] += weighted.sum()
    sums[1] += nats.numel()
    sums[2] += len(mask) * window
    if level is None:
        return
    bucket = (level * NOISE_BUCKETS).long().clamp_(max=NOISE_BUCKETS - 1)
    masked = bucket[mask]
    by_noise = sums[3:SUMS].view(4, NOISE_BUCKETS)
    by_noise[0].index_add_(0, masked, nats)
    by_noise[1].index_add_(0, masked, nats.new_ones(()).expand_as(nats))
    by_noise[2].index_add_(0, masked, weighted)
    by_noise[3].index_add_(0, bucket.flatten(), nats.new_full((), window / mask.shape[1]).expand(bucket.numel()))


def step_row(
    sums: Sequence[float],
    *,
    step: int,
    epoch: int,
    lr: float,
    grad_norm: float,
    tokens: int,
    seconds: float,
    compute: Mapping[str, Any],
    skipped: Reason | None,
) -> dict[str, Any]:
    """The row of one step from its reduced sums; `tokens` counts all tokens seen so far, this step's included."""
    weighted, masked, positions = sums[:3]
    nats, counts, parts, sizes = (sums[3 + k * NOISE_BUCKETS : 3 + (k + 1) * NOISE_BUCKETS] for k in range(4))
    row: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "loss": _number(weighted / positions),
        "lr": lr,
        "grad_norm": _number(grad_norm),
        "masked_fraction": masked / positions,
        "by_noise": _means(nats, counts),
        "loss_by_noise": _means(parts, sizes),
        "positions_by_noise": [round(size) for size in sizes],
        "tokens": tokens,
        "tokens_per_second": positions / seconds,
        "seconds": seconds,
        "compute": dict(compute),
    }
    return row if skipped is None else {**row, "skipped": skipped}


def mean_loss_by_noise(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """`loss_by_noise` of several rows together, which are of used updates."""
    totals = [0.0] * (2 * NOISE_BUCKETS)
    for row in rows:
        for bucket, (loss, count) in enumerate(zip(row["loss_by_noise"], row["positions_by_noise"], strict=True)):
            totals[bucket] += (loss or 0.0) * count
            totals[NOISE_BUCKETS + bucket] += count
    return _means(totals[:NOISE_BUCKETS], totals[NOISE_BUCKETS:])


def drop_rows(work: Folder, step: int) -> None:
    """Keep the rows of steps up to `step` only: later ones are undone and will be made again."""
    work.replace_lines(METRICS, [_line(row) for row in read_rows(work, METRICS) if row["step"] <= step])


class MetricsLog:
    """Appends rows to `metrics.jsonl` of `work`, from which those of steps after `step` are dropped first.

    On files a row is at once visible to readers. In an object store, rows since the last checkpoint (or the last of
    many) are one object, which is written again every few seconds.
    """

    def __init__(self, work: Folder, step: int) -> None:
        drop_rows(work, step)
        self._work = work
        self._file = None if work.path is None else (work.path / METRICS).open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._bytes = 0
        self._part = ""
        self._written = time.monotonic()

    def append(self, row: Mapping[str, Any]) -> None:
        """One row."""
        line = _line(row)
        if self._file is not None:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        with self._lock:
            self._lines.append(line)
            self._bytes += len(line)
            if self._bytes > _PART_BYTES:
                self._close_part()
            elif time.monotonic() - self._written > _PART_SECONDS:
                self._write()

    def sync(self) -> None:
        """Make all rows survive a crash of the machine: before a checkpoint that counts on them, by any thread."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            return
        with self._lock:
            if self._lines:
                self._close_part()

    def _close_part(self) -> None:
        self._write()
        self._lines, self._bytes, self._part = [], 0, ""

    def _write(self) -> None:
        self._part = self._work.append_line(METRICS, "\n".join(self._lines), self._part)
        self._written = time.monotonic()


def read_rows(work: Folder, name: str) -> list[dict[str, Any]]:
    """All complete rows of a metrics or events file; none when it does not exist. A torn last line is left out.

    A row of a step that an earlier row is of, or one after it, takes their place: those were undone.
    """
    rows: list[dict[str, Any]] = []
    for line in work.read_lines(name):
        row = json.loads(line)
        while name == METRICS and rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False)


def _means(sums: Sequence[float], counts: Sequence[float]) -> list[float | None]:
    return [_number(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
