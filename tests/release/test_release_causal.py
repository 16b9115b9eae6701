"""An autoregressive model's export and release: stock transformers loads it, with the logits and texts ours has."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from illada.artifacts import Artifact, NoProgress
from illada.config import Evaluate, Generate, Objective
from illada.data.tokenizer import BOS_ID, EOS_ID, IM_END_ID, MASK_ID, PAD_ID
from illada.evaluate.exact import exact_nats
from illada.evaluate.nll import EvaluationError, evaluate_nll
from illada.release.export import export_model
from illada.release.verify import verify
from illada.sample.blocks import sample_prompts
from illada.sample.left_to_right import continue_prompts
from illada.sample.model import load

if TYPE_CHECKING:
    from conftest import TinyModel

TOKENS = torch.randint(7, 300, (3, 21), generator=torch.Generator().manual_seed(0))
NEXT = Objective(kind="autoregressive")


@pytest.fixture(scope="module")
def causal(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    config = tiny_model.config.model_copy(update={"attention": "causal"})
    folder = tmp_path_factory.mktemp("causal") / "model"
    export_model(tiny_model.weights, config, tiny_model.tokenizer, folder)
    return dataclasses.replace(tiny_model, config=config, folder=folder)


@torch.no_grad()
def test_stock_transformers_loads_it(causal: TinyModel) -> None:
    assert not list(causal.folder.glob("*.py"))
    model, info = AutoModelForCausalLM.from_pretrained(causal.folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert type(model).__module__.startswith("transformers.models.llama")
    ours, _ = load(causal.folder)
    assert torch.equal(ours(TOKENS).logits, model.eval()(TOKENS).logits)
    other = TOKENS.clone()
    other[:, 10:] += 1
    assert torch.equal(ours(TOKENS).logits[:, :10], ours(other).logits[:, :10])


def test_exact_likelihood_is_transformers_loss(causal: TinyModel) -> None:
    model, _ = load(causal.folder)
    done: list[int] = []
    nats = exact_nats(model, TOKENS.numpy(), done.append)
    assert done == [3]
    for row, value in zip(TOKENS, nats, strict=True):
        ids = torch.cat((torch.tensor([BOS_ID]), row))[None]
        with torch.no_grad():
            expected = float(model(ids, labels=ids).loss) * len(row)
        assert value == pytest.approx(expected, rel=1e-5)


def test_segments_are_sequences_of_their_own(causal: TinyModel) -> None:
    model, _ = load(causal.folder)
    boundaries = np.array([[0, 5, 12, 21], [0, 21, 21, 21], [0, 20, 21, 21]])
    nats = exact_nats(model, TOKENS.numpy(), lambda done: None, boundaries)
    for row, ends, value in zip(TOKENS.numpy(), boundaries, nats, strict=True):
        alone = [row[None, a:b] for a, b in itertools.pairwise(ends) if a < b]
        expected = sum(float(exact_nats(model, part, lambda done: None)[0]) for part in alone)
        assert value == pytest.approx(expected, rel=1e-6)


def test_probabilities_of_all_windows_add_up_to_one(causal: TinyModel) -> None:
    """Of one token: over the whole vocabulary."""
    model, _ = load(causal.folder)
    every = np.arange(causal.config.vocab_size)[:, None]
    assert math.fsum(np.exp(-exact_nats(model, every, lambda done: None))) == pytest.approx(1, rel=1e-5)


def test_evaluation_tells_objectives_apart(causal: TinyModel, tiny_model: TinyModel, tmp_path: Path) -> None:
    for folder, objective in ((causal.folder, Objective()), (tiny_model.folder, NEXT)):
        with pytest.raises(EvaluationError, match="was not trained by"):
            evaluate_nll(folder, tmp_path, Evaluate(), objective, 16, NoProgress())


def test_greedy_texts_are_those_of_generate(causal: TinyModel) -> None:
    model, tokenizer = load(causal.folder)
    stock = AutoModelForCausalLM.from_pretrained(causal.folder).eval()
    prompts = [[BOS_ID, 70, 71], [80, 81, 82, 83]]
    settings = Generate(max_new_tokens=24)
    found = continue_prompts(model, tokenizer.vocab_size, prompts, settings, lambda done: None)
    unknown = [MASK_ID, PAD_ID, *range(tokenizer.vocab_size, causal.config.vocab_size)]
    for ids, text in zip(([BOS_ID, 70, 71], [BOS_ID, 80, 81, 82, 83]), found, strict=True):
        asked = torch.tensor([ids])
        made = stock.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=24,
            do_sample=False,
            suppress_tokens=unknown,
        )[0, len(ids) :].tolist()
        ends = [made.index(stop) for stop in (EOS_ID, IM_END_ID) if stop in made]
        assert text == made[: min(ends, default=None)]


def test_sampling_repeats_by_seed(causal: TinyModel) -> None:
    settings = Generate(max_new_tokens=12, temperature=1.0, prompts=("Hi", "How"), seed=3)
    samples = sample_prompts(causal.folder, settings, NoProgress())
    assert samples == sample_prompts(causal.folder, settings, NoProgress())
    other = settings.model_copy(update={"prompts": ("Hi",)})
    assert sample_prompts(causal.folder, other, NoProgress()) == samples[:1]
    assert samples != sample_prompts(causal.folder, settings.model_copy(update={"seed": 4}), NoProgress())
    with pytest.raises(ValueError, match="95 positions"):
        sample_prompts(causal.folder, settings.model_copy(update={"max_new_tokens": 95}), NoProgress())


def test_release_verifies_and_its_card_speaks_of_it(
    causal: TinyModel, release_of: Callable[[TinyModel], Artifact]
) -> None:
    folder = release_of(causal).local()
    assert [check.name for check in verify(folder)] == ["files", "provenance", "gates", "weights", "probes"]
    card = (folder / "README.md").read_text()
    head = card.split("## Published results")[0]
    assert "autoregressive language model" in head and "causal, 4 query heads" in head
    assert "diffusion models of the same data" in head and "trust_remote_code" not in head
    assert "masked-diffusion" not in head and "noise level" not in head and "Upper bound" not in head
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    program = head.split("```python\n")[1].split("```")[0].replace('folder = "."', f"folder = {str(folder)!r}")
    exec(compile(program, "card", "exec"), {})
