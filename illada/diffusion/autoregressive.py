"""Autoregressive language modelling, the baseline: what each position is given to predict its own token from.

The chain rule gives the exact negative log-likelihood of a segment x of length l under a causal model p:

    - log p(x) = sum over i of  - log p(x_i | BOS, x_1 .. x_{i-1})

The inputs of a segment are its tokens moved right by one, BOS before them, and each position's target is its own token:
next-token prediction on [BOS, x], all of x. So nothing is predicted across the end of a segment, every token is, and
the training loss, the sum over the batch divided by its tokens, is a likelihood of the same text as masked diffusion's
bound (`illada.diffusion.masked`), token for token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shifted(tokens: Tensor, boundaries: Tensor, bos_id: int) -> Tensor:
    """The inputs, a new tensor: `tokens` int64 [b, s] moved right by one within segments, `bos_id` where each begins.

    Args:
        boundaries: int [b, m] per row: 0, then ends of segments, ascending, the last one s, maybe repeated.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    first = (places[:, None] == boundaries[:, None, :-1]).any(-1)
    return tokens.roll(1, dims=1).masked_fill_(first, bos_id)
