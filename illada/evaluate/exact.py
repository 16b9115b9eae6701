"""The exact negative log-likelihood of windows under an autoregressive model, by the chain rule.

A window is a sequence of its own, as in training (`illada.diffusion.autoregressive`): every token is predicted, the
first from BOS. So the figure is one of the same text, token for token, as a masked model's bound on these windows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers.models.llama import LlamaForCausalLM

from illada.data.tokenizer import BOS_ID
from illada.diffusion.autoregressive import shifted

_PASS_TOKENS = 8192  # tokens in one forward pass
_HEAD_ELEMENTS = 2**26  # logits held at once


@torch.inference_mode()
def exact_nats(
    model: LlamaForCausalLM, tokens: NDArray[np.int64], on_pass: Callable[[int], None]
) -> NDArray[np.float64]:
    """Nats of each window, [n], for tokens [n, L]."""
    n, length = tokens.shape
    nats = np.empty(n)
    rows = max(1, _PASS_TOKENS // length)
    for start in range(0, n, rows):
        part = torch.from_numpy(tokens[start : start + rows]).to(model.device)
        whole = torch.tensor([[0, length, length]], device=model.device).expand(len(part), 3)
        hidden = model.model(shifted(part, whole, BOS_ID), use_cache=False).last_hidden_state.flatten(0, 1)
        entropy = torch.cat(_entropy(model, hidden, part.flatten()))
        nats[start : start + rows] = entropy.view(part.shape).sum(dim=1).cpu().numpy()
        on_pass(min(start + rows, n))
    return nats


def _entropy(model: LlamaForCausalLM, hidden: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    chunk = max(1, _HEAD_ELEMENTS // model.config.vocab_size)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return [F.cross_entropy(model.lm_head(part).to(wide), wanted, reduction="none").double() for part, wanted in parts]
