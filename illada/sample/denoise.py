"""Low-confidence remasking of one block (LLaDA, arXiv 2502.09992, algorithm 5).

At every step the model predicts all masked positions of the block at once; the most confident predictions stay, the
rest are masked again. The model is known only as a callable, so that the algorithm can be tested with a made-up one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(tokens int64 [b, s], attention mask int64 [b, s], n) -> logits [b, n, V] of the last n positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """Ids that generation treats apart: mask and padding are never generated, a stop token ends a text."""

    mask: int
    pad: int
    stop: tuple[int, ...]


def reveal_counts(width: int, steps: int) -> list[int]:
    """How many positions of a block of `width` each step reveals: as even as possible, the larger counts first.

    They sum to `width`; steps that would reveal nothing are left out.
    """
    each, more = divmod(width, steps)
    return [count for step in range(steps) if (count := each + (step < more))]


def fill_block(
    predict: Predict,
    tokens: Tensor,
    visible: Tensor,
    width: int,
    *,
    steps: int,
    temperature: float,
    special: SpecialTokens,
    streams: Sequence[torch.Generator],
) -> None:
    """Replace the masks among the last `width` positions of `tokens` [b, s], in place.

    Args:
        visible: attention mask [b, s], 0 at padding.
        streams: random numbers of each row; untouched at temperature 0.
    """
    block = tokens[:, -width:]
    for count in reveal_counts(width, steps):
        logits = predict(tokens, visible, width).to("cpu", torch.float64)
        probability = logits.softmax(-1)  # of all tokens, as the published loop has it
        logits[..., [special.mask, special.pad]] = -torch.inf
        guess = _guess(logits, temperature, streams)
        confidence = probability.gather(-1, guess[..., None])[..., 0].masked_fill(block != special.mask, -1.0)
        # a stable sort: among equally confident positions the first wins, on every machine
        chosen = confidence.sort(dim=-1, descending=True, stable=True).indices[:, :count]
        block.scatter_(1, chosen, guess.gather(1, chosen))


def _guess(logits: Tensor, temperature: float, streams: Sequence[torch.Generator]) -> Tensor:
    """A token for every position, [b, n], from float64 logits [b, n, V].

    Above temperature 0 by the Gumbel-max trick (argmax of logits + T x Gumbel noise samples softmax(logits / T)), in
    float64 because low precision skews it (arXiv 2409.02908).
    """
    if temperature > 0:
        uniform = torch.stack([torch.rand(logits.shape[1:], generator=s, dtype=torch.float64) for s in streams])
        logits = logits - temperature * torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))
    return logits.argmax(-1)
