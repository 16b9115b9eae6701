"""Variable-length block generation (iLLaDA, arXiv 2606.25331): append a block of masks, denoise it, look for a stop.

A block without a stop token is followed by the next, up to a budget, so the length of the answer need not be known in
advance. Prompts are batched with padding on the left: rotary attention depends on distances only, so padding changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from illada.config import Generate
from illada.data.tokenizer import EOS_ID, IM_END_ID, TextTokenizer
from illada.model.hf.modeling_illada import ILLaDAForCausalLM
from illada.sample.denoise import Predict, SpecialTokens, fill_block
from illada.sample.left_to_right import continue_prompts
from illada.sample.model import Model, load


class Reports(Protocol):
    """Who is told of the progress: the artifact room's `Progress` is one."""

    def start(self, total: float | None, unit: str) -> None:
        """Begin a count."""

    def update(self, done: float) -> None:
        """`done` units so far."""


def sample_prompts(folder: Path, settings: Generate, progress: Reports) -> list[dict[str, str]]:
    """[{"prompt", "text"}] for the prompts of `settings`, each asked as a user's message; [] without prompts."""
    if not settings.prompts:
        return []
    model, tokenizer = load(folder)
    progress.start(settings.max_new_tokens, "tokens")
    prompts = [tokenizer.chat_prompt([{"role": "user", "content": prompt}]) for prompt in settings.prompts]
    texts = generate(model, tokenizer, prompts, settings, progress.update)
    return [{"prompt": prompt, "text": text} for prompt, text in zip(settings.prompts, texts, strict=True)]


def generate(
    model: Model,
    tokenizer: TextTokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    on_block: Callable[[int], None] | None = None,
) -> list[str]:
    """The continuation of each prompt (token ids) as text: in blocks, or left to right by an autoregressive model.

    Raises:
        ValueError: a prompt and `max_new_tokens` together exceed the model's positions.
    """
    causal = model.config.model_type == "llama"
    positions = model.config.max_position_embeddings - causal  # one is BOS
    longest = max(map(len, prompts), default=0)
    if longest + settings.max_new_tokens > positions:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens {settings.max_new_tokens} exceed the model's {positions} "
            f"positions; ask for at most {max(positions - longest, 0)} new tokens or shorten the prompt"
        )
    if causal:
        found = continue_prompts(model, tokenizer.vocab_size, prompts, settings, on_block or (lambda done: None))
        return [tokenizer.decode(ids) for ids in found]
    special = SpecialTokens(mask=model.config.mask_token_id, pad=model.config.pad_token_id, stop=(EOS_ID, IM_END_ID))
    predict = predictor(model, tokenizer.vocab_size)
    return [tokenizer.decode(ids) for ids in generate_blocks(predict, prompts, settings, special, on_block)]


def predictor(model: ILLaDAForCausalLM, vocab_size: int) -> Predict:
    """The model as the sampler's callable: logits of the asked positions, and of the tokens the tokenizer knows."""

    def predict(tokens: Tensor, visible: Tensor, last: int) -> Tensor:
        hidden = model.model(tokens.to(model.device), attention_mask=visible.to(model.device)).last_hidden_state
        return model.lm_head(hidden[:, -last:])[..., :vocab_size]

    return predict


@torch.inference_mode()
def generate_blocks(
    predict: Predict,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    special: SpecialTokens,
    on_block: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue each prompt (token ids). A continuation ends before its first stop token or at `max_new_tokens`.

    Rows that have stopped leave the batch. At temperature 0 nothing is random; above it row r draws from a stream of
    its own, seeded by (`settings.seed`, r), whatever the other rows do.

    Args:
        on_block: told the number of new tokens per row after every block.

    Raises:
        ValueError: no prompt, or an empty one.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError(
            "generation needs at least one prompt and no empty one; begin with <|bos|> if there is no text"
        )
    longest = max(map(len, prompts))
    tokens = torch.tensor([[special.pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    visible = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    streams = [torch.Generator().manual_seed((settings.seed << 20) + row) for row in range(len(prompts))]
    texts: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    done = 0
    while running and done < settings.max_new_tokens:
        width = min(settings.block, settings.max_new_tokens - done)
        tokens = torch.cat((tokens, torch.full((len(running), width), special.mask)), dim=1)
        visible = torch.cat((visible, torch.ones(len(running), width, dtype=visible.dtype)), dim=1)
        fill_block(
            predict,
            tokens,
            visible,
            width,
            steps=settings.steps_per_block,
            temperature=settings.temperature,
            special=special,
            streams=[streams[row] for row in running],
        )
        done += width
        kept = [
            index
            for index, row in enumerate(running)
            if not _append(texts[row], tokens[index, -width:].tolist(), special.stop)
        ]
        running = [running[index] for index in kept]
        tokens, visible = tokens[kept], visible[kept]
        if on_block is not None:
            on_block(done)
    return texts


def _append(text: list[int], block: list[int], stop: tuple[int, ...]) -> bool:
    """Extend `text` by the block up to its first stop token; True when there was one."""
    end = next((index for index, token in enumerate(block) if token in stop), None)
    text += block[:end]
    return end is not None
