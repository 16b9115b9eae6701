"""The same step under every layout of tensor and pipeline ranks, each against the float64 reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_ranks import run_layout
from model_reference import batch, config, reference_cross_entropy, reference_logits

from illada.model.weights import hf_tensor_names, initial_tensor

LAYOUTS = [
    (1, 1, True),
    (2, 1, True),
    (1, 2, True),
    (2, 2, True),
    (2, 1, False),
    (2, 2, False),
]


@pytest.mark.parametrize(("tensor", "pipeline", "tied"), LAYOUTS)
def test_a_step_does_not_depend_on_the_layout(tensor: int, pipeline: int, tied: bool, tmp_path: Path) -> None:
    step = run_layout(tmp_path, tensor, pipeline, tied_embeddings=tied)

    model = config(tied_embeddings=tied)
    weights = {name: initial_tensor(model, name, seed=0).double().requires_grad_() for name in hf_tensor_names(model)}
    tokens, boundaries, clean, mask = batch()
    losses = reference_cross_entropy(model, weights, tokens, boundaries, clean, mask)
    losses.sum().backward()
    torch.testing.assert_close(step.losses.double(), losses, rtol=0, atol=2e-5)
    logits = reference_logits(model, weights, tokens, boundaries)
    torch.testing.assert_close(step.logits.double(), logits, rtol=0, atol=2e-5)

    assert set(step.gradients) == set(weights)
    for name, gradient in step.gradients.items():
        expected = weights[name].grad
        tolerance = 2e-5 * float(expected.abs().max())
        torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=tolerance, msg=name)
    norm = torch.stack([tensor.grad.square().sum() for tensor in weights.values()]).sum().sqrt()
    assert step.gradient_norm == pytest.approx(float(norm), rel=1e-5)
