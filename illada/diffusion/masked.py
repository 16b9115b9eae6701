"""Masked (absorbing-state) diffusion: corruption, loss estimator, and its exact expectation.

The objective of LLaDA (arXiv 2502.09992, eq. 3), an upper bound on the negative log-likelihood of a segment x of
length l under the model p:

    L(x) = E_t E_mask  (1 / t)  sum over masked i of  - log p(x_i | x with the masked positions hidden)

t ~ U(0, 1), and each position is hidden independently with probability t. As there, the probability used is
q = (1 - eps) t + eps, which is never so near 0 that one draw has an unbounded weight, and the weight is 1 / q:

    estimator = sum over masked i of  cross_entropy_i / q,     q = (1 - eps) t + eps

It is unbiased for L_eps(x) = integral over t of the expectation at q(t); L_eps tends to L as eps tends to 0. A window
cut into two segments draws one t for each and estimates the sum of their bounds. The training loss is the sum over
the batch divided by the number of its tokens, masked or not.

Everything here is a function of tensors and knows nothing of how t and masks were drawn (illada.data.noise does that).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def corrupt(tokens: Tensor, mask: Tensor, mask_id: int) -> Tensor:
    """`tokens` int64 [...] with `mask_id` where `mask` bool [...] is true; a new tensor."""
    return tokens.masked_fill(mask, mask_id)


def weighted_loss(cross_entropy: Tensor, weight: Tensor, tokens: int) -> Tensor:
    """A part of the batch's loss, a scalar: the weighted cross-entropies, summed and divided by `tokens`.

    Args:
        cross_entropy: [n] nats, of the masked positions in any order.
        weight: [n] 1 / q of each of them, in the same order.
        tokens: what to divide by: all tokens of the batch, masked or not, when the parts of ranks and micro-batches are
            added up; those of the micro-batch when its equals are averaged (Megatron's schedules do). With nothing
            masked the part is 0 and still has a gradient (of zeros).
    """
    return (cross_entropy * weight).sum() / tokens


def expected_loss(
    cross_entropy: Callable[[Tensor], Tensor], length: int, *, eps: float = 0.0, level: float | None = None
) -> float:
    """The estimator's exact expectation for one segment (not divided by its length), by enumerating all 2^length masks.

    Args:
        cross_entropy: mask bool [length] -> float64 [length], - log p(x_i | unmasked); read where masked.
        length: positions of the segment; small.
        eps: as in q = (1 - eps) t + eps. With 0 this is the bound itself.
        level: t. None integrates over t ~ U(0, 1), exactly: given the mask the integrand is a polynomial in t.
    """
    if level is None:
        points, masses = np.polynomial.legendre.leggauss(length // 2 + 1)
        levels, masses = (points + 1) / 2, masses / 2
    else:
        levels, masses = np.array([level]), np.array([1.0])
    q = (1 - eps) * levels + eps
    total = 0.0
    for flags in itertools.product((False, True), repeat=length):
        hidden = sum(flags)
        if not hidden:
            continue
        mask = torch.tensor(flags)
        probability_over_q = float((masses * q ** (hidden - 1) * (1 - q) ** (length - hidden)).sum())
        total += probability_over_q * float(cross_entropy(mask)[mask].sum())
    return total
