"""The same step under layouts of tensor, pipeline and context ranks, each against the float64 reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_ranks import Layout, run_layout
from model_reference import PERTURBED, batch, config, reference_cross_entropy, reference_logits

from illada.model.weights import hf_tensor_names, initial_tensor

LAYOUTS = [
    (Layout(), True),
    (Layout(tensor=2), True),
    (Layout(pipeline=2, virtual=2), True),
    (Layout(tensor=2, pipeline=2), True),
    (Layout(context=2), False),
    (Layout(tensor=2, context=2), False),
    pytest.param(Layout(tensor=2, context=2, pipeline=2, virtual=2), True, marks=pytest.mark.slow),
    pytest.param(Layout(context=4), True, marks=pytest.mark.slow),
    pytest.param(Layout(pipeline=4), True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("layout", "tied"), LAYOUTS, ids=str)
def test_a_step_does_not_depend_on_the_layout(layout: Layout, tied: bool, tmp_path: Path) -> None:
    step = run_layout(tmp_path, layout, tied_embeddings=tied, layers=4)

    model = config(tied_embeddings=tied, layers=4)
    weights = {name: initial_tensor(model, name, seed=0).double().requires_grad_() for name in hf_tensor_names(model)}
    tokens, boundaries, clean, mask = batch()
    losses = reference_cross_entropy(model, weights, tokens, boundaries, clean, mask)
    losses.sum().backward()
    torch.testing.assert_close(step.losses[mask].double(), losses, rtol=0, atol=2e-5)
    logits = reference_logits(model, weights, tokens, boundaries)
    torch.testing.assert_close(step.logits.double(), logits, rtol=0, atol=2e-5)

    changed = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, part in PERTURBED:
        changed[row, part] = True
    assert torch.equal(step.perturbed[~changed], step.logits[~changed]), "a segment sees another one"
    assert not torch.isclose(step.perturbed[changed], step.logits[changed]).all(-1).any()

    assert set(step.gradients) == set(weights)
    for name, gradient in step.gradients.items():
        expected = weights[name].grad
        tolerance = 2e-5 * float(expected.abs().max())
        torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=tolerance, msg=name)
    norm = torch.stack([tensor.grad.square().sum() for tensor in weights.values()]).sum().sqrt()
    assert step.gradient_norm == pytest.approx(float(norm), rel=1e-5)
