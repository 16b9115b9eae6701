"""The module with causal attention against transformers' Llama: logits, its own loss over shifted labels, gradients."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from model_reference import LENGTH, SIZES, batch, config, wiggled
from torch import Tensor
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from illada.data.tokenizer import BOS_ID
from illada.diffusion.autoregressive import shifted
from illada.diffusion.masked import weighted_loss
from illada.model.megatron import DiffusionGPT, build_module
from illada.model.weights import hf_tensor_names, hf_views, initial_tensor, load_hf_weights
from illada.release.export import configuration

pytestmark = pytest.mark.usefixtures("one_rank")

Built = tuple[DiffusionGPT, LlamaForCausalLM]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def built(request: pytest.FixtureRequest, one_rank: None) -> Built:
    model = config(tied_embeddings=request.param, attention="causal")
    weights = {name: wiggled(initial_tensor(model, name, seed=0)) for name in hf_tensor_names(model)}
    module = build_module(model, dtype=torch.float32)
    load_hf_weights(module, model, weights.__getitem__)
    llama = LlamaForCausalLM(LlamaConfig(**configuration(model), attn_implementation="eager"))
    missing, unexpected = llama.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return module, llama.double()


def _segments() -> list[tuple[int, slice]]:
    _, boundaries, _, _ = batch()
    parts = [(row, slice(*part)) for row, ends in enumerate(boundaries.tolist()) for part in pairwise(ends)]
    return [(row, part) for row, part in parts if part.start < part.stop]


@torch.no_grad()
def test_logits_are_llama_s_of_each_segment(built: Built) -> None:
    module, llama = built
    tokens, boundaries, _, _ = batch()
    logits = module(tokens, boundaries).double()
    for row, part in _segments():
        expected = llama(tokens[row : row + 1, part]).logits[0]
        torch.testing.assert_close(logits[row, part], expected, rtol=0, atol=5e-5)


def test_loss_and_gradients_are_those_of_transformers(built: Built) -> None:
    """Its loss is the mean over the labels but the first of each sequence: with BOS before them, over all tokens."""
    module, llama = built
    _, boundaries, clean, _ = batch()
    everything = torch.ones_like(clean, dtype=torch.bool)
    module.zero_grad()
    losses = module(shifted(clean, boundaries, BOS_ID), boundaries, clean, everything)
    loss = weighted_loss(losses, torch.ones(clean.numel()), clean.numel())
    loss.backward()

    llama.zero_grad()
    expected = torch.zeros((), dtype=torch.float64)
    for row, part in _segments():
        ids = torch.cat((torch.tensor([BOS_ID]), clean[row, part]))[None]
        expected = expected + llama(ids, labels=ids).loss * (ids.shape[1] - 1) / clean.numel()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in llama.named_parameters()}
    compared = set()
    for name, view, _ in hf_views(module, module.architecture, lambda parameter: parameter.grad):
        wanted = gradients[name]
        assert wanted is not None
        scale = float(wanted.abs().max())
        torch.testing.assert_close(view.double(), wanted.view(view.shape), rtol=0, atol=2e-5 * scale, msg=name)
        compared.add(name)
    assert compared == gradients.keys()


@torch.no_grad()
def test_no_position_sees_a_later_one(built: Built) -> None:
    module, _ = built
    tokens, boundaries, _, _ = batch()
    for place in range(LENGTH):
        other: Tensor = tokens.clone()
        other[:, place:] = (other[:, place:] + 1) % SIZES["vocab_size"]
        assert torch.equal(module(tokens, boundaries)[:, :place], module(other, boundaries)[:, :place])
