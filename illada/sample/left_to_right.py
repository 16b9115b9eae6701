"""Generation by an autoregressive model: one token after another, keys and values of the earlier ones kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama import LlamaForCausalLM

from illada.config import Generate
from illada.data.tokenizer import BOS_ID, EOS_ID, IM_END_ID, MASK_ID, PAD_ID


@torch.inference_mode()
def continue_prompts(
    model: LlamaForCausalLM,
    vocab_size: int,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    on_token: Callable[[int], None],
) -> list[list[int]]:
    """Continue each prompt (token ids), up to before its first stop token or for `max_new_tokens`.

    BOS goes before a prompt without it, as before every training window. At temperature 0 nothing is random; above it
    prompt r draws from a stream of its own, seeded by (`settings.seed`, r).

    Args:
        vocab_size: tokens that the tokenizer knows; the model may have more rows, which are never taken.
        on_token: told the mean number of new tokens a prompt, now and then.
    """
    texts = []
    for row, prompt in enumerate(prompts):
        stream = torch.Generator().manual_seed((settings.seed << 20) + row)
        texts.append(_continue(model, vocab_size, prompt, settings, stream))
        on_token((row + 1) * settings.max_new_tokens // len(prompts))
    return texts


def _continue(
    model: LlamaForCausalLM, vocab_size: int, prompt: Sequence[int], settings: Generate, stream: torch.Generator
) -> list[int]:
    cache = DynamicCache(config=model.config)
    text: list[int] = []
    step = torch.tensor([prompt if prompt[0] == BOS_ID else [BOS_ID, *prompt]], device=model.device)
    while len(text) < settings.max_new_tokens:
        logits = model(step, past_key_values=cache, logits_to_keep=1).logits[0, -1, :vocab_size].float().cpu()
        token = _draw(logits, settings.temperature, stream)
        if token in (EOS_ID, IM_END_ID):
            break
        text.append(token)
        step = torch.tensor([[token]], device=model.device)
    return text


def _draw(logits: Tensor, temperature: float, stream: torch.Generator) -> int:
    logits[[MASK_ID, PAD_ID]] = -torch.inf
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits.double() / temperature).softmax(-1), 1, generator=stream))
