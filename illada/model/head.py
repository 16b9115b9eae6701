"""Output projection and cross-entropy fused over tiles of the vocabulary, parallel over it.

At 155,136 embedding rows the logits of one 8,192-token window take 5 GB in float32. Here they exist for one tile of the
vocabulary at a time, as the softmax over that tile and the logarithm of its sum; the sums of all tiles give the loss.
The backward pass needs a tile's softmax and one factor a position: its share of the whole softmax times the gradient,
which the small side of each product takes, so that nothing as large as logits is touched twice. What is kept of the
tiles for it is bounded; others are computed again (as in Cut Cross-Entropy, arXiv 2411.09009). Targets are left out of
the tiles and come from the loss itself, in float32: p - 1 would be all rounding where p is near 1.

Under tensor parallelism each rank holds a slice of the vocabulary and ranks exchange three numbers a position
(Megatron-LM, arXiv 1909.08053); each has the gradient of its slice alone.

Shapes: n positions, h hidden width, v embedding rows of this rank, c rows of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

from illada.model.products import matmul

TILE_LOGITS = 2**22  # what a tile is made of fits in a processor's cache
KEPT_BYTES = 2**28


def tiled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    group: ProcessGroup,
    tile_logits: int = TILE_LOGITS,
    kept_bytes: int = KEPT_BYTES,
) -> Tensor:
    """Cross-entropy of `hidden @ weight.T` against `targets`, in nats, float32 [n].

    Args:
        hidden: [n, h], the same on every rank of `group`; its gradient is what this rank's slice adds to it, for what
            made `hidden` out of the ranks' parts (a gather) to sum.
        weight: [v, h], this rank's slice of the output embedding.
        targets: int64 [n] ids in the whole vocabulary.
        group: tensor-parallel ranks, in vocabulary order.
        tile_logits: most logits of a tile, but for one row of the embedding.
        kept_bytes: of tiles, for the backward pass.
    """
    result: Tensor = _TiledCrossEntropy.apply(hidden, weight, targets, group, tile_logits, kept_bytes)
    return result


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        group: ProcessGroup,
        tile_logits: int,
        kept_bytes: int,
    ) -> Tensor:
        local = targets - group.rank() * weight.shape[0]
        owned = (local >= 0) & (local < weight.shape[0])
        tiles = _tiles(weight.shape[0], max(1, tile_logits // max(1, len(hidden))))
        log_sums = hidden.new_empty(len(tiles), len(hidden), dtype=torch.float32)
        of_target = hidden.new_zeros(len(hidden), dtype=torch.float32)
        ctx.tiles, ctx.kept = tiles, {}
        for number, tile in enumerate(tiles):
            softmax, log_sums[number], target = _tile(hidden, weight, local, tile)
            of_target += target
            kept_bytes -= softmax.nbytes
            if kept_bytes >= 0:
                ctx.kept[number] = softmax
        peak = _reduced(log_sums.amax(dim=0), group, ReduceOp.MAX)
        total = (log_sums - peak).exp_().sum(dim=0)
        total, of_target = _reduced(torch.stack((total, of_target)), group, ReduceOp.SUM)
        log_total = total.log() + peak
        losses = log_total - of_target
        ctx.save_for_backward(hidden, weight, local, owned, log_sums - log_total, losses)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden, weight, local, owned, log_shares, losses = ctx.saved_tensors
        gradient = gradients[0][:, None]
        kept, ctx.kept = ctx.kept, {}  # freed one after another, so usable once
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        grad_weight = torch.empty_like(weight)
        for number, tile in enumerate(ctx.tiles):
            softmax = kept.pop(number) if number in kept else _tile(hidden, weight, local, tile)[0]
            factor = gradient * log_shares[number, :, None].exp()
            grad_weight[tile] = matmul(softmax.t(), (hidden * factor).to(weight.dtype))
            grad_hidden.addcmul_(matmul(softmax, weight[tile]), factor)
        factor = (gradient * torch.expm1(-losses)[:, None]).mul_(owned[:, None])
        rows = local.clamp(0, len(weight) - 1)
        grad_hidden.addcmul_(weight[rows], factor)
        ordered = rows.sort().values
        sums = torch.zeros_like(grad_hidden)  # of all positions of one target in float32, at the first of its places
        sums.index_add_(0, torch.searchsorted(ordered, rows), hidden * factor)
        grad_weight.index_add_(0, ordered, sums.to(weight.dtype))
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


def _tile(hidden: Tensor, weight: Tensor, local: Tensor, tile: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax [n, c] over a tile, in the weight's type, 0 at targets; log of its sum, and targets' logits or 0, [n]."""
    logits = matmul(hidden, weight[tile].t()).float()
    inside = ((local >= tile.start) & (local < tile.stop))[:, None]
    place = (local - tile.start).clamp_(0, logits.shape[1] - 1)[:, None]
    target = logits.gather(1, place).mul_(inside)[:, 0]
    peak = logits.amax(dim=1)
    softmax = torch.softmax(logits, dim=1, out=logits)
    log_sum = peak - softmax.amax(dim=1).log_()
    softmax.scatter_(1, place, softmax.gather(1, place).mul_(~inside))
    return softmax.to(weight.dtype), log_sum, target


def _tiles(vocabulary: int, rows: int) -> list[slice]:
    return [slice(first, min(first + rows, vocabulary)) for first in range(0, vocabulary, rows)]


def _reduced(values: Tensor, group: ProcessGroup, operation: ReduceOp.RedOpType) -> Tensor:
    if group.size() > 1 and values.numel():
        all_reduce(values, operation, group=group)
    return values
