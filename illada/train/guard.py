"""Which updates are left out: those whose loss or gradient is not a number, and those whose gradient is a spike.

A spike is a gradient norm above a multiple of the median of the last norms that were used. The median does not move
with single large values, and what is left out never enters it, so one spike cannot hide the next. Norms spread by
nature: noise levels near 0 weigh a masked token by up to 1 / eps. With gradients of tokens taken to be independent, the
largest norm that chance can give a batch of n tokens is about 1 / (eps sqrt(n ln(1 / eps))) times the usual one: 8 at
2,048 tokens, nothing to speak of at millions.

`History` is a value: which updates are left out is a function of the norms before them. It lies in every checkpoint, so
that a resumed stage decides as one that was not interrupted. Norm and loss are the same bits on every rank.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from illada.config import Guard
from illada.data.snapshots import ShardSource, SnapshotSplit

Reason = Literal["not finite", "spike"]
_SUSPECTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """Update number `step`, left out. `suspects` are windows of its batch, see `suspects`."""

    step: int
    reason: Reason
    suspects: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Norms of the last updates made, oldest first, and the updates left out since the last of them."""

    norms: tuple[float, ...] = ()
    skips: tuple[Skip, ...] = ()

    def verdict(self, guard: Guard, loss: float, norm: float) -> Reason | None:
        """Why the update of this loss and gradient norm is to be left out; None when it is to be made."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "not finite"
        return "spike" if norm > self.limit(guard) else None

    def limit(self, guard: Guard) -> float:
        """The largest norm that is no spike: infinite while there are too few before it, or spikes are not looked for.

        Where the usual norm is 0 nothing is known about what is large.
        """
        if guard.spike is None or len(self.norms) < guard.history:
            return math.inf
        return guard.spike * statistics.median(self.norms) or math.inf

    def made(self, guard: Guard, norm: float) -> History:
        """After an update with this norm."""
        return History(norms=(*self.norms, norm)[-guard.history :])

    def skipped(self, skip: Skip) -> History:
        """After an update that was left out."""
        return History(norms=self.norms, skips=(*self.skips, skip))

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        skips = [Skip(**{**skip, "suspects": tuple(skip["suspects"])}) for skip in value["skips"]]
        return cls(norms=tuple(value["norms"]), skips=tuple(skips))


def suspects(windows: Sequence[int], losses: Sequence[float]) -> tuple[int, ...]:
    """The windows of a batch to look at first: those whose loss is not a number, then those of the largest.

    Args:
        windows: their numbers.
        losses: of each, sum of cross-entropy / p over its tokens.
    """
    ranked = [-loss if math.isfinite(loss) else -math.inf for loss in losses]
    order = sorted(range(len(windows)), key=lambda row: (ranked[row], row))
    return tuple(windows[row] for row in order[:_SUSPECTS])


def explain(skips: Sequence[Skip], shards: ShardSource, inspect: Callable[[Sequence[int]], str]) -> str:
    """What to tell when these updates in a row had to be left out, and the last of them took windows of `shards`.

    `inspect` gives the options of `illada data inspect` that show windows: see `Loader.inspect`.
    """
    ids = dict.fromkeys(number for skip in skips for number in skip.suspects)
    target = f"{shards.label} --store {shards.store}" if isinstance(shards, SnapshotSplit) else str(shards)
    each = "; ".join(f"step {skip.step} ({skip.reason}): windows {_listed(skip.suspects)}" for skip in skips)
    return (
        f"{len(skips)} updates in a row had to be left out, up to step {skips[-1].step}. The windows of the largest "
        f"loss: {each}; events.jsonl has all of them. Look at them with `illada data inspect {target} "
        f"{inspect(list(ids))}`; take their documents out, lower the learning rate, or raise "
        "guard.spike"
    )


def _listed(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))
