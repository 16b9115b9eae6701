"""Output projection and cross-entropy fused over chunks of positions, parallel over the vocabulary.

At 155,136 embedding rows the logits of one 8,192-token window take 5 GB in float32. Here they exist for one chunk of
positions at a time; the backward pass computes them again from the hidden states (as in Liger, arXiv 2410.10989, and
Cut Cross-Entropy, arXiv 2411.09009), except those of the last chunk, whose probabilities are kept: what fits in one
chunk is computed once. Under tensor parallelism each rank holds a slice of the vocabulary and ranks exchange three
numbers a position (Megatron-LM, arXiv 1909.08053); each has the gradient of its slice alone.

Shapes: n positions, h hidden width, v embedding rows of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

CHUNK_LOGITS = 2**25  # 128 MB of float32 logits a rank


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: ProcessGroup, chunk_logits: int = CHUNK_LOGITS
) -> Tensor:
    """Cross-entropy of `hidden @ weight.T` against `targets`, in nats, float32 [n].

    Args:
        hidden: [n, h], the same on every rank of `group`; its gradient is what this rank's slice adds to it, for what
            made `hidden` out of the ranks' parts (a gather) to sum.
        weight: [v, h], this rank's slice of the output embedding.
        targets: int64 [n] ids in the whole vocabulary.
        group: tensor-parallel ranks, in vocabulary order.
        chunk_logits: most logits alive at once.
    """
    result: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, group, chunk_logits)
    return result


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, group: ProcessGroup, chunk_logits: int
    ) -> Tensor:
        local = targets - group.rank() * weight.shape[0]
        owned = (local >= 0) & (local < weight.shape[0])
        local = local.clamp(0, weight.shape[0] - 1)
        ctx.chunks = _chunks(hidden.shape[0], max(1, chunk_logits // weight.shape[0]))
        ctx.last = None
        log_total = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        of_target = torch.empty_like(log_total)
        for part in ctx.chunks:
            logits = (hidden[part] @ weight.t()).float()
            peak = _reduced(logits.amax(dim=1), group, ReduceOp.MAX)
            target = logits.gather(1, local[part, None])[:, 0].masked_fill(~owned[part], 0.0)
            ctx.last = logits.sub_(peak[:, None]).exp_()
            total, target = _reduced(torch.stack((ctx.last.sum(dim=1), target)), group, ReduceOp.SUM)
            ctx.last.div_(total[:, None])
            log_total[part] = total.log() + peak
            of_target[part] = target
        ctx.save_for_backward(hidden, weight, local, owned, log_total)
        return log_total - of_target

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, local, owned, log_total = ctx.saved_tensors
        (gradient,) = gradients
        kept, ctx.last = ctx.last, None  # changed in place below, so usable once
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for part in reversed(ctx.chunks):
            if kept is not None:
                chunk, kept = kept, None
            else:
                chunk = (hidden[part] @ weight.t()).float().sub_(log_total[part, None]).exp_()
            chunk.scatter_add_(1, local[part, None], -owned[part, None].float())
            chunk = chunk.mul_(gradient[part, None]).to(weight.dtype)
            grad_hidden[part] = chunk @ weight
            grad_weight += chunk.t() @ hidden[part]
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def _chunks(positions: int, rows: int) -> list[slice]:
    return [slice(first, min(first + rows, positions)) for first in range(0, positions, rows)]


def _reduced(values: Tensor, group: ProcessGroup, operation: ReduceOp.RedOpType) -> Tensor:
    if group.size() > 1 and values.numel():
        all_reduce(values, operation, group=group)
    return values
