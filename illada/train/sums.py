"""What all ranks add up after their gradients: one float64 vector, so that a step has one reduction besides theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from illada.train.metrics import SUMS

DIGEST = 8
"""Numbers of a sha256: words of 32 bits, which float64 holds exactly."""
_SIGNALS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSums:
    """Views of one vector.

    Attributes:
        figures: [SUMS], see `illada.train.metrics.add_micro_batch`.
        signals: [4]: ranks that were asked to stop; what rank 0 says of the decay, see `illada.train.decay`; ranks that
            have written their part of a checkpoint.
        seconds: [ranks], what each has computed for, see `illada.train.straggler`.
        digests: [ranks, DIGEST] where asked for, each rank's of what it has written, see `illada.train.saver`.
        windows: [global batch], the loss of each window: sum of cross-entropy / p over its tokens.
    """

    vector: Tensor
    figures: Tensor
    signals: Tensor
    seconds: Tensor
    digests: Tensor
    windows: Tensor

    @classmethod
    def zeros(cls, global_batch: int, device: torch.device, *, digests: bool) -> Self:
        """Nothing yet; with room for digests or without, the same on all ranks."""
        ranks = dist.get_world_size()
        sizes = [SUMS, _SIGNALS, ranks, ranks * DIGEST if digests else 0, global_batch]
        vector = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        figures, signals, seconds, words, windows = vector.split(sizes)
        return cls(
            vector=vector,
            figures=figures,
            signals=signals,
            seconds=seconds,
            digests=words.view(-1, DIGEST),
            windows=windows,
        )

    def add_windows(self, first: int, cross_entropy: Tensor, weight: Tensor, mask: Tensor) -> None:
        """Add the losses of a micro-batch whose first row is row `first` of the global batch.

        Args:
            first: counted over all ranks.
            cross_entropy: float32 [masked] nats, in the order of `mask`.
            weight: float32 [b, s], 1 / p where masked.
            mask: bool [b, s].
        """
        rows = first + mask.nonzero()[:, 0]
        self.windows.index_add_(0, rows, cross_entropy.detach().double() * weight[mask].double())

    def reduce(self) -> None:
        """Add those of all ranks; collective."""
        dist.all_reduce(self.vector)
