"""The twin against `transformers`' own Llama with an all-visible mask, and the invariants of padding and segments."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from illada.model.hf.configuration_illada import ILLaDAConfig
from illada.model.hf.modeling_illada import ILLaDAForCausalLM

SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "initializer_range": 0.3,
}


def _twin(tied: bool = True, **changes: object) -> ILLaDAForCausalLM:
    torch.manual_seed(0)
    return ILLaDAForCausalLM(ILLaDAConfig(**{**SIZES, "tie_word_embeddings": tied, **changes})).eval()


def _tokens(b: int, s: int) -> torch.Tensor:
    return torch.randint(7, SIZES["vocab_size"], (b, s), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_logits_equal_llama_with_everything_visible(tied: bool) -> None:
    twin = _twin(tied).double()
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, rms_norm_eps=1e-5, tie_word_embeddings=tied)).double().eval()
    llama.load_state_dict(twin.state_dict())
    tokens = _tokens(2, 33)
    visible = torch.zeros(2, 1, 33, 33, dtype=torch.float64)
    expected = llama(tokens, attention_mask=visible).logits
    # the oracle computes its rotary tables and norms in float32
    assert expected.std() > 0.5
    torch.testing.assert_close(twin(tokens).logits, expected, rtol=0, atol=2e-5)
    assert not torch.allclose(llama(tokens).logits, expected, atol=1e-2), "the oracle must differ when causal"


@torch.no_grad()
def test_bfloat16_stays_near_float32() -> None:
    twin, tokens = _twin(), _tokens(2, 16)
    exact = twin(tokens).logits
    rough = twin.bfloat16()(tokens).logits
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).std() < 0.05 * exact.std()


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(side: str) -> None:
    """Rotary attention depends on distances only, so padding on either side is as good as none."""
    twin, tokens = _twin().double(), _tokens(1, 20)
    padding = torch.zeros(1, 7, dtype=torch.long)
    parts = [(padding, 0), (tokens, 1)] if side == "left" else [(tokens, 1), (padding, 0)]
    padded = torch.cat([ids for ids, _ in parts], dim=1)
    mask = torch.cat([torch.full_like(ids, value) for ids, value in parts], dim=1)
    logits = twin(padded, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits, twin(tokens).logits[0], rtol=0, atol=1e-10)


@torch.no_grad()
def test_segments_are_independent_sequences() -> None:
    twin, tokens = _twin().double(), _tokens(4, 24)
    rows = [[0, 5, 24, 24, 24], [0, 24, 24, 24, 24], [0, 5, 6, 6, 24], [0, 3, 12, 23, 24]]
    logits = twin(tokens, boundaries=torch.tensor(rows, dtype=torch.int32)).logits
    for row, ends in enumerate(rows):
        for start, end in pairwise(ends):
            part = slice(start, end)
            if start < end:
                alone = twin(tokens[row : row + 1, part]).logits[0]
                torch.testing.assert_close(logits[row, part], alone, rtol=0, atol=1e-10)


@torch.no_grad()
def test_padding_and_segments_together_stay_finite() -> None:
    twin, tokens = _twin().double(), _tokens(2, 10)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, 6:] = 0
    boundaries = torch.tensor([[0, 6, 10], [0, 6, 10]])
    logits = twin(tokens, attention_mask=mask, boundaries=boundaries).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0, :6], twin(tokens[:1, :6]).logits[0], rtol=0, atol=1e-10)


def test_wrong_shapes_are_refused() -> None:
    twin, tokens = _twin(), _tokens(2, 10)
    with pytest.raises(ValueError, match="attention_mask"):
        twin(tokens, attention_mask=torch.ones(2, 1, 10, 10))
    with pytest.raises(ValueError, match="shape"):
        twin(tokens, boundaries=torch.tensor([[0, 10, 10]]))
    with pytest.raises(ValueError, match="row 1"):
        twin(tokens, boundaries=torch.tensor([[0, 5, 10], [0, 11, 10]]))


def test_configurations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="num_key_value_heads"):
        ILLaDAConfig(**{**SIZES, "num_key_value_heads": 3})
    with pytest.raises(ValueError, match="even"):
        ILLaDAConfig(**{**SIZES, "hidden_size": 36})
    with pytest.raises(ValueError, match="yarn"):
        ILLaDAConfig(**{**SIZES, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}})


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_save_and_load_round_trip(tied: bool, tmp_path: Path) -> None:
    twin, tokens = _twin(tied), _tokens(1, 9)
    twin.save_pretrained(tmp_path)
    again = ILLaDAForCausalLM.from_pretrained(tmp_path).eval()
    assert again.device == torch.device("cpu")
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert torch.equal(again(tokens).logits, twin(tokens).logits)
    assert again.config.mask_token_id == 5
    assert again.config.rope_parameters["rope_theta"] == 10_000.0


def test_published_size() -> None:
    """iLLaDA 8B: 291 tensors in the state dict, 7.62B parameters of which 6.98B outside the embedding."""
    with torch.device("meta"):
        model = ILLaDAForCausalLM(ILLaDAConfig())
    embedding = model.model.embed_tokens.weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert round(total / 1e9, 2) == 7.62
    assert round((total - embedding) / 1e9, 2) == 6.98
    assert len(model.state_dict()) == 291
