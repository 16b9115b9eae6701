"""The exact negative log-likelihood of windows under an autoregressive model, by the chain rule.

A window is a sequence of its own, as in training (`illada.diffusion.autoregressive`): every token is predicted, the
first from BOS; where documents were trained apart, each is one. So the figure is one of the same text, token for token,
as a masked model's bound on these windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers.models.llama import LlamaForCausalLM

from illada.data.tokenizer import BOS_ID, PAD_ID
from illada.diffusion.autoregressive import shifted

_PASS_TOKENS = 8192  # tokens in one forward pass
_HEAD_ELEMENTS = 2**26  # logits held at once


@torch.inference_mode()
def exact_nats(
    model: LlamaForCausalLM,
    tokens: NDArray[np.int64],
    on_pass: Callable[[int], None],
    boundaries: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Nats of each window, [n], for tokens [n, L].

    With `boundaries` [n, m] (0, then ends of segments, the last one L and repeated) each segment is a sequence of its
    own, and a window has the sum of theirs.
    """
    n, length = tokens.shape
    ends = np.array([[0, length]] * n) if boundaries is None else boundaries
    pieces = [(row, *span) for row in range(n) for span in itertools.pairwise(ends[row].tolist()) if span[0] < span[1]]
    nats, rows = np.zeros(n), max(1, _PASS_TOKENS // length)
    for start in range(0, len(pieces), rows):
        chosen = pieces[start : start + rows]
        longest = max(stop - first for _, first, stop in chosen)
        part = np.full((len(chosen), longest), PAD_ID, dtype=np.int64)  # behind the text, so that no token sees it
        for line, (row, first, stop) in zip(part, chosen, strict=True):
            line[: stop - first] = tokens[row, first:stop]
        entropy = _entropy(model, torch.from_numpy(part).to(model.device)).cpu().numpy()
        for line, (row, first, stop) in zip(entropy, chosen, strict=True):
            nats[row] += line[: stop - first].sum()
        on_pass(chosen[-1][0] + 1)
    return nats


def _entropy(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every token given those before it in its row, float64 [b, s]."""
    whole = torch.tensor([[0, tokens.shape[1]]], device=tokens.device)
    hidden = model.model(shifted(tokens, whole, BOS_ID), use_cache=False).last_hidden_state.flatten(0, 1)
    chunk = max(1, _HEAD_ELEMENTS // model.config.vocab_size)
    parts = zip(hidden.split(chunk), tokens.flatten().split(chunk), strict=True)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    found = [F.cross_entropy(model.lm_head(part).to(wide), wanted, reduction="none").double() for part, wanted in parts]
    return torch.cat(found).view(tokens.shape)
