"""Sampling from an exported folder, by our sampler and by the published one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from illada.artifacts import NoProgress
from illada.config import Generate
from illada.data.tokenizer import EOS_ID, IM_END_ID, MASK_ID, PAD_ID
from illada.release.export import export_model
from illada.sample.blocks import generate, predictor, sample_prompts
from illada.sample.denoise import SpecialTokens, fill_block
from illada.sample.model import load

if TYPE_CHECKING:
    from conftest import TinyModel

ROOT = Path(__file__).resolve().parents[2]
LLADA = Path(os.environ.get("LLADA_CHECKOUT", ROOT.parent / "LLaDA"))
PROMPTS = ("How do I install it?", "The quick brown fox")


@dataclass
class _Watched(NoProgress):
    seen: list[float] = field(default_factory=list)

    def update(self, done: float, **figures: float | str) -> None:
        self.seen.append(done)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_to_texts(tiny_model: TinyModel, temperature: float) -> None:
    settings = Generate(max_new_tokens=20, block=8, steps_per_block=4, temperature=temperature, prompts=PROMPTS, seed=4)
    watched = _Watched()
    samples = sample_prompts(tiny_model.folder, settings, watched)
    assert [sample["prompt"] for sample in samples] == list(PROMPTS)
    assert all("<[MASK]>" not in sample["text"] for sample in samples)
    assert watched.seen == sorted(watched.seen)
    assert watched.seen[-1] <= 20
    assert samples == sample_prompts(tiny_model.folder, settings, NoProgress())
    if temperature:
        other = settings.model_copy(update={"seed": 5})
        assert samples != sample_prompts(tiny_model.folder, other, NoProgress())


def test_no_prompts_no_samples(tiny_model: TinyModel) -> None:
    assert sample_prompts(tiny_model.folder, Generate(), NoProgress()) == []


def test_more_than_the_positions_is_refused(tiny_model: TinyModel) -> None:
    settings = Generate(max_new_tokens=90, prompts=PROMPTS)
    with pytest.raises(ValueError, match="96 positions; ask for at most"):
        sample_prompts(tiny_model.folder, settings, NoProgress())


def test_rows_the_tokenizer_does_not_know_are_never_generated(tiny_model: TinyModel) -> None:
    """The model has 320 embedding rows, the tokenizer 300 tokens; make the others the likeliest."""
    model, tokenizer = load(tiny_model.folder)
    assert tokenizer.vocab_size < model.config.vocab_size
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.vocab_size :] *= 100
    settings = Generate(max_new_tokens=16, block=8, steps_per_block=8)
    text = generate(model, tokenizer, [[7, 8, 9]], settings)[0]
    assert isinstance(text, str)


@torch.inference_mode()
def test_predictor_gives_the_last_logits_and_sees_no_padding(tiny_model: TinyModel) -> None:
    model, _ = load(tiny_model.folder)
    tokens = torch.tensor([[PAD_ID, PAD_ID, 7, 8, 9, MASK_ID, MASK_ID]])
    visible = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    logits = predictor(model, 300)(tokens, visible, 2)
    torch.testing.assert_close(logits, model(tokens[:, 2:]).logits[:, -2:, :300], rtol=0, atol=1e-5)


def test_one_step_reveals_the_whole_block(tiny_model: TinyModel) -> None:
    """With one step the block is the argmax of one forward pass."""
    model, tokenizer = load(tiny_model.folder)
    tokens = torch.tensor([[7, 8, 9] + [MASK_ID] * 6])
    with torch.inference_mode():
        logits = model(tokens).logits[0, 3:, : tokenizer.vocab_size].clone()
        logits[:, [MASK_ID, PAD_ID]] = -torch.inf
        expected = logits.argmax(-1)
        special = SpecialTokens(mask=MASK_ID, pad=PAD_ID, stop=(EOS_ID, IM_END_ID))
        predict = predictor(model, tokenizer.vocab_size)
        visible = torch.ones_like(tokens)
        fill_block(predict, tokens, visible, 6, steps=1, temperature=0, special=special, streams=[])
    assert torch.equal(tokens[0, 3:], expected)


def _published(llada: Path, release: Path, modules: Path, block: int = 16) -> subprocess.CompletedProcess[str]:
    script = ROOT / "benchmarks" / "published_sampler.py"
    command = [sys.executable, str(script), "--llada", str(llada), "--release", str(release)]
    environment = {**os.environ, "HF_MODULES_CACHE": str(modules), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*command, "--length", "16", "--block", str(block)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(not LLADA.is_dir(), reason="no checkout of ML-GSAI/LLaDA beside the project")
@pytest.mark.parametrize("block", [8, 16])
def test_the_published_loop_runs_unchanged(tiny_model: TinyModel, tmp_path: Path, block: int) -> None:
    """And it writes what our sampler writes, where the two are the same algorithm: in a single block."""
    rows = load(tiny_model.folder)[1].vocab_size
    name = "model.embed_tokens.weight"
    weights = {**tiny_model.weights, name: tiny_model.weights[name][:rows]}
    config = tiny_model.config.model_copy(update={"vocab_size": rows})
    export_model(weights, config, tiny_model.tokenizer, tmp_path / "model")
    done = _published(LLADA, tmp_path / "model", tmp_path / "modules", block)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["published"]) == len(result["prompts"]) == 2
    if block == 16:
        assert result["reserved"] == 0
        assert result["published"] == result["ours"]


@pytest.mark.slow
def test_a_missing_checkout_is_said_clearly(tiny_model: TinyModel, tmp_path: Path) -> None:
    done = _published(tmp_path / "absent", tiny_model.folder, tmp_path)
    assert done.returncode == 1
    assert "not found; clone" in done.stderr
