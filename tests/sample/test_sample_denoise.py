"""The sampler against made-up models: what it must do whatever a model says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.config import Generate
from illada.sample.blocks import generate_blocks
from illada.sample.denoise import SpecialTokens, fill_block, reveal_counts

V, MASK, PAD, STOP = 20, 5, 0, 2
SPECIAL = SpecialTokens(mask=MASK, pad=PAD, stop=(STOP, 6))


def _random_model(tokens: torch.Tensor, visible: torch.Tensor, last: int) -> torch.Tensor:
    """Logits that depend on every visible token and the distance to it, as a real model's do."""
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = tokens.shape[1]
    index = torch.arange(s)
    distance = torch.cos(0.7 * (index[:, None] - index[None, :]).double())[None] * visible[:, None, :]
    return (3 * distance @ table[tokens])[:, -last:]


def _dictating_model(script: Sequence[int], prompt: int):  # type: ignore[no-untyped-def]
    """Always sure of script[i] at the i-th new position, surer of earlier positions."""

    def predict(tokens: torch.Tensor, visible: torch.Tensor, last: int) -> torch.Tensor:
        s = tokens.shape[1]
        logits = torch.zeros(tokens.shape[0], s, V)
        for i in range(prompt, s):
            logits[:, i, script[(i - prompt) % len(script)]] = 50.0 - 0.1 * i
        return logits[:, -last:]

    return predict


@given(width=st.integers(1, 70), steps=st.integers(1, 70))
def test_reveal_counts_are_even_and_sum_to_the_block(width: int, steps: int) -> None:
    counts = reveal_counts(width, steps)
    assert sum(counts) == width
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == min(width, steps)


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(7, V - 1), min_size=1, max_size=6), min_size=1, max_size=3),
    max_new=st.integers(1, 14),
    block=st.integers(1, 6),
    steps=st.integers(1, 8),
    temperature=st.sampled_from([0.0, 0.7, 3.0]),
)
def test_never_emits_mask_padding_or_stop_and_keeps_the_budget(
    prompts: list[list[int]], max_new: int, block: int, steps: int, temperature: float
) -> None:
    config = Generate(max_new_tokens=max_new, block=block, steps_per_block=steps, temperature=temperature, seed=3)
    texts = generate_blocks(_random_model, prompts, config, SPECIAL)
    assert texts == generate_blocks(_random_model, prompts, config, SPECIAL)
    assert len(texts) == len(prompts)
    for text in texts:
        assert len(text) <= max_new
        assert not {MASK, PAD, *SPECIAL.stop} & set(text)


def test_mask_and_padding_lose_even_when_the_model_wants_them() -> None:
    predict = _dictating_model([MASK, PAD, 9], prompt=1)
    text = generate_blocks(predict, [[7]], Generate(max_new_tokens=6, block=3, steps_per_block=3), SPECIAL)[0]
    assert len(text) == 6
    assert text[2] == text[5] == 9


def test_stops_before_the_first_stop_token_and_asks_for_no_further_block() -> None:
    calls = []
    inner = _dictating_model([10, 11, 12, 13, 14, STOP, 16, 6], prompt=2)

    def predict(tokens: torch.Tensor, visible: torch.Tensor, last: int) -> torch.Tensor:
        calls.append(tokens.shape[1])
        return inner(tokens, visible, last)

    seen: list[int] = []
    config = Generate(max_new_tokens=400, block=4, steps_per_block=2)
    texts = generate_blocks(predict, [[7, 8]], config, SPECIAL, on_block=seen.append)
    assert texts == [[10, 11, 12, 13, 14]]
    assert calls == [6, 6, 10, 10]
    assert seen == [4, 8]


def test_a_last_block_that_does_not_fit_is_shorter() -> None:
    predict = _dictating_model([10, 11, 12], prompt=1)
    config = Generate(max_new_tokens=5, block=3, steps_per_block=3)
    assert generate_blocks(predict, [[7]], config, SPECIAL) == [[10, 11, 12, 10, 11]]


def test_reveals_the_most_confident_positions_first() -> None:
    """Confidences 4 > 2 > 3 > 1 over four positions, one a step: the context must fill in that order."""
    order = [0, 2, 1, 3]
    filled: list[list[bool]] = []

    def predict(tokens: torch.Tensor, visible: torch.Tensor, last: int) -> torch.Tensor:
        filled.append((tokens[0, -last:] != MASK).tolist())
        logits = torch.zeros(1, last, V)
        for rank, position in enumerate(order):
            logits[0, position, 10 + position] = 9.0 - rank
        return logits

    tokens = torch.tensor([[7, MASK, MASK, MASK, MASK]])
    fill_block(predict, tokens, torch.ones_like(tokens), 4, steps=4, temperature=0, special=SPECIAL, streams=[])
    assert tokens.tolist() == [[7, 10, 11, 12, 13]]
    expected = [[position in order[:step] for position in range(4)] for step in range(4)]
    assert filled == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch_mates(temperature: float) -> None:
    prompts = [[7, 8, 9, 10], [11, 12], [13]]
    config = Generate(max_new_tokens=12, block=4, steps_per_block=4, temperature=temperature, seed=1)
    together = generate_blocks(_random_model, prompts, config, SPECIAL)
    alone = generate_blocks(_random_model, prompts[:1], config, SPECIAL)
    assert together[:1] == alone
    changed = generate_blocks(_random_model, [prompts[0], [14, 15, 16, 17, 18], [19]], config, SPECIAL)
    assert changed[0] == alone[0]


def test_temperature_samples_the_softmax() -> None:
    """One position, one step: frequencies over seeds against softmax(logits / T)."""
    logits = torch.tensor([0.0] * 7 + [1.0, 2.0, 2.5] + [-30.0] * (V - 10))

    def predict(tokens: torch.Tensor, visible: torch.Tensor, last: int) -> torch.Tensor:
        return logits.expand(tokens.shape[0], last, V).clone()

    rows = 4000
    config = Generate(max_new_tokens=1, block=1, steps_per_block=1, temperature=0.5)
    special = SpecialTokens(mask=MASK, pad=PAD, stop=())
    texts = generate_blocks(predict, [[7]] * rows, config, special)
    counts = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=V) / rows
    allowed = logits.clone()
    allowed[[MASK, PAD]] = -torch.inf
    expected = (allowed / 0.5).softmax(-1)
    for token in range(V):
        p = float(expected[token])
        assert abs(float(counts[token]) - p) <= 4 * math.sqrt(p * (1 - p) / rows) + 1e-9


def test_no_prompt_is_an_error() -> None:
    for prompts in ([], [[7], []]):
        with pytest.raises(ValueError, match="prompt"):
            generate_blocks(_random_model, prompts, Generate(), SPECIAL)
