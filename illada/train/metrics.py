"""Per-step figures of training: summed over micro-batches and data-parallel ranks, then one JSON line a step.

A row of `metrics.jsonl` is one update:

    step              updates made so far, this one included
    epoch             epoch of its windows, from 0
    loss              sum over masked positions of cross-entropy / q, over all tokens of the global batch (nats)
    lr, grad_norm     of this update; the norm is before clipping
    masked_fraction   masked positions over all positions
    by_noise          mean unweighted cross-entropy by noise level t in tenths, null where nothing fell
    tokens            tokens seen so far
    seconds           of this step alone; `tokens_per_second` follows from it

A step whose loss or gradient was not finite changed no weight: its row has `"skipped": true` and null for what is not a
number. After a resume the rows of undone steps are dropped, so that the file is an uninterrupted run's but for timings.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from illada.artifacts import write_text

if TYPE_CHECKING:
    from torch import Tensor

NOISE_BUCKETS = 10
SUMS = 3 + 2 * NOISE_BUCKETS
_TAIL_BYTES = 1 << 14


def add_micro_batch(sums: Tensor, cross_entropy: Tensor, weight: Tensor, level: Tensor, tokens: int) -> None:
    """Add one micro-batch to `sums`, float64 [SUMS or more]: summable over ranks, and read by `step_row`.

    Args:
        sums: changed in place; what follows the first SUMS elements is left alone.
        cross_entropy: float32 [n] nats of the masked positions.
        weight: float32 [n], 1 / q of each.
        level: float32 [n], the noise level t of each.
        tokens: positions of the micro-batch, masked or not.
    """
    nats = cross_entropy.detach().double()
    bucket = (level * NOISE_BUCKETS).long().clamp_(max=NOISE_BUCKETS - 1)
    sums[0] += (nats * weight.double()).sum()
    sums[1] += nats.numel()
    sums[2] += tokens
    sums[3 : 3 + NOISE_BUCKETS].index_add_(0, bucket, nats)
    sums[3 + NOISE_BUCKETS : SUMS].index_add_(0, bucket, nats.new_ones(()).expand_as(nats))


def step_row(
    sums: Sequence[float], *, step: int, epoch: int, lr: float, grad_norm: float, tokens: int, seconds: float
) -> dict[str, Any]:
    """The row of one step from its reduced sums; `tokens` counts all tokens seen so far, this step's included."""
    weighted, masked, positions = sums[:3]
    by_bucket = zip(sums[3 : 3 + NOISE_BUCKETS], sums[3 + NOISE_BUCKETS :], strict=True)
    row: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "loss": _number(weighted / positions),
        "lr": lr,
        "grad_norm": _number(grad_norm),
        "masked_fraction": masked / positions,
        "by_noise": [_number(nats / count) if count else None for nats, count in by_bucket],
        "tokens": tokens,
        "tokens_per_second": positions / seconds,
        "seconds": seconds,
    }
    if row["loss"] is None or row["grad_norm"] is None:
        row["skipped"] = True
    return row


def drop_rows(path: Path, step: int) -> None:
    """Keep the rows of steps up to `step` only: later ones are undone and will be made again."""
    kept = [row for row in read_rows(path) if row["step"] <= step]
    write_text(path, "".join(_line(row) for row in kept))


class MetricsLog:
    """Appends rows to `path`, from which those of steps after `step` are dropped first, and a torn last line."""

    def __init__(self, path: Path, step: int) -> None:
        drop_rows(path, step)
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """One row, at once visible to readers of the file."""
        self._file.write(_line(row))
        self._file.flush()

    def sync(self) -> None:
        """Make all rows survive a crash of the machine: called before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a metrics or events file; none when it does not exist. A torn last line is left out."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]


def last_row(path: Path) -> dict[str, Any] | None:
    """The newest complete row, reading only the file's end: cheap enough to poll."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        complete, _, _ = file.read().rpartition(b"\n")
    line = complete.rpartition(b"\n")[2]
    row: dict[str, Any] | None = json.loads(line) if line else None
    return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
