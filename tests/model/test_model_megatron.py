"""The Megatron module on one rank, against the float64 reference and the Hugging Face twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from model_reference import LENGTH, SIZES, batch, config, reference_cross_entropy, reference_logits, wiggled
from torch import Tensor

from illada.config import ModelConfig
from illada.model.hf.configuration_illada import ILLaDAConfig
from illada.model.hf.modeling_illada import ILLaDAForCausalLM
from illada.model.megatron import DiffusionGPT, build_module
from illada.model.weights import hf_tensor_names, hf_views, hf_weights, initial_tensor, load_hf_weights

pytestmark = pytest.mark.usefixtures("one_rank")

Built = tuple[ModelConfig, DiffusionGPT, dict[str, Tensor]]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def built(request: pytest.FixtureRequest, one_rank: None) -> Built:
    return _build(config(tied_embeddings=request.param))


def _build(model: ModelConfig, dtype: torch.dtype = torch.float32) -> Built:
    weights = {name: wiggled(initial_tensor(model, name, seed=0)) for name in hf_tensor_names(model)}
    module = build_module(model, dtype=dtype)
    load_hf_weights(module, model, weights.__getitem__)
    return model, module, weights


def _double(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double().requires_grad_() for name, tensor in weights.items()}


@torch.no_grad()
def test_logits_equal_the_reference(built: Built) -> None:
    model, module, weights = built
    tokens, boundaries, _, _ = batch()
    logits = module(tokens, boundaries)
    expected = reference_logits(model, _double(weights), tokens, boundaries)
    assert logits.shape == (*tokens.shape, model.vocab_size)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_logits_equal_the_hugging_face_twin(built: Built) -> None:
    model, module, weights = built
    twin = ILLaDAForCausalLM(
        ILLaDAConfig(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_size,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            num_key_value_heads=model.kv_heads,
            max_position_embeddings=model.max_positions,
            rms_norm_eps=model.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
            tie_word_embeddings=model.tied_embeddings,
        )
    ).eval()
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    tokens, boundaries, _, _ = batch()
    expected = twin(tokens, boundaries=boundaries).logits
    torch.testing.assert_close(module(tokens, boundaries), expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_loss_of_masked_positions_equals_that_of_all_logits(built: Built) -> None:
    model, module, weights = built
    tokens, boundaries, clean, mask = batch()
    losses = module(tokens, boundaries, clean, mask)
    of_all = torch.nn.functional.cross_entropy(
        module(tokens, boundaries).flatten(0, 1), clean.flatten(), reduction="none"
    )
    assert losses.dtype == torch.float32 and losses.shape == (int(mask.sum()),)
    torch.testing.assert_close(losses, of_all.view_as(clean)[mask], rtol=1e-5, atol=1e-5)
    expected = reference_cross_entropy(model, _double(weights), tokens, boundaries, clean, mask)
    torch.testing.assert_close(losses.double(), expected, rtol=0, atol=2e-5)


def test_gradients_equal_the_reference(built: Built) -> None:
    model, module, weights = built
    tokens, boundaries, clean, mask = batch()
    weight = torch.linspace(0.5, 2.0, int(mask.sum()))

    module.zero_grad()
    (module(tokens, boundaries, clean, mask) * weight).sum().backward()
    doubles = _double(weights)
    losses = reference_cross_entropy(model, doubles, tokens, boundaries, clean, mask)
    (losses * weight.double()).sum().backward()

    compared = set()
    for name, view, _ in hf_views(module, model, lambda parameter: parameter.grad):
        expected = doubles[name].grad
        scale = expected.abs().max()
        assert scale > 1e-3, name
        torch.testing.assert_close(view.double(), expected.view(view.shape), rtol=0, atol=2e-5 * float(scale), msg=name)
        compared.add(name)
    assert compared == set(weights)


@torch.no_grad()
@pytest.mark.parametrize("changed", [slice(0, 5), slice(5, LENGTH)], ids=["first", "second"])
def test_a_segment_does_not_see_the_other(built: Built, changed: slice) -> None:
    _, module, _ = built
    tokens, boundaries, _, _ = batch()
    other = tokens.clone()
    other[1, changed] = (other[1, changed] + 1) % SIZES["vocab_size"]
    before, after = module(tokens, boundaries), module(other, boundaries)
    same = torch.ones_like(tokens, dtype=torch.bool)
    same[1, changed] = False
    assert torch.equal(before[same], after[same])
    assert not torch.isclose(before[1, changed], after[1, changed]).all(-1).any()


@torch.no_grad()
def test_a_segment_is_a_sequence_of_its_own(built: Built) -> None:
    _, module, _ = built
    tokens, boundaries, _, _ = batch()
    packed = module(tokens, boundaries)[1]
    for start, end in ((0, 5), (5, LENGTH)):
        alone = module(tokens[1:2, start:end], torch.tensor([[0, end - start, end - start]], dtype=torch.int32))[0]
        torch.testing.assert_close(packed[start:end], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_position_sees_every_other(built: Built) -> None:
    _, module, _ = built
    tokens, _, _, _ = batch()
    whole = torch.tensor([[0, LENGTH, LENGTH]], dtype=torch.int32)
    before = module(tokens[:1], whole)
    for place in (0, LENGTH - 1):
        other = tokens[:1].clone()
        other[0, place] = (other[0, place] + 1) % SIZES["vocab_size"]
        assert not torch.isclose(before, module(other, whole)).all(-1).any()


def test_nothing_masked_is_no_loss_and_zero_gradients(built: Built) -> None:
    _, module, _ = built
    tokens, boundaries, clean, mask = batch()
    module.zero_grad()
    losses = module(tokens, boundaries, clean, torch.zeros_like(mask))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_multi_head_attention_is_the_case_of_equal_heads() -> None:
    model, module, weights = _build(config(kv_heads=4))
    tokens, boundaries, _, _ = batch()
    expected = reference_logits(model, _double(weights), tokens, boundaries)
    torch.testing.assert_close(module(tokens, boundaries).double(), expected, rtol=0, atol=2e-5)


def test_bfloat16_stays_near_float32() -> None:
    model, module, weights = _build(config(), torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    tokens, boundaries, clean, mask = batch()
    losses = module(tokens, boundaries, clean, mask)
    expected = reference_cross_entropy(model, _double(weights), tokens, boundaries, clean, mask)
    assert losses.dtype == torch.float32
    assert (losses - expected).std() < 0.1 * expected.std()
    losses.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_weights_round_trip(built: Built) -> None:
    model, module, weights = built
    back = hf_weights(module, model)
    assert list(back) == list(hf_tensor_names(model))
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    back["model.norm.weight"].zero_()
    assert module.decoder.final_layernorm.weight.any(), "a copy must not be the parameter"


def test_a_tensor_of_another_shape_is_named(built: Built) -> None:
    model, module, weights = built
    name = "model.layers.1.mlp.up_proj.weight"
    get: Callable[[str], Tensor] = lambda n: weights[n].T if n == name else weights[n]  # noqa: E731
    with pytest.raises(ValueError, match=name):
        load_hf_weights(module, model, get)


def test_a_window_longer_than_the_positions_is_refused(built: Built) -> None:
    model, module, _ = built
    length = model.max_positions + 1
    with pytest.raises(ValueError, match="max_positions"):
        module(torch.zeros(1, length, dtype=torch.int64), torch.tensor([[0, length, length]], dtype=torch.int32))


def test_a_model_the_layout_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core import parallel_state

    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 3)
    with pytest.raises(ValueError, match="kv_heads 2 cannot be divided over 3"):
        build_module(config(), dtype=torch.float32)


def test_every_sharded_weight_is_marked_for_the_gradient_norm(built: Built) -> None:
    _, module, _ = built
    for name, parameter in module.named_parameters():
        assert bool(getattr(parameter, "tensor_model_parallel", False)) == ("norm" not in name), name
