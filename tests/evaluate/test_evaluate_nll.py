"""The held-out bound against exact enumeration over all masks, in float64 on a tiny model."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from illada.artifacts import NoProgress
from illada.config import Evaluate, Objective
from illada.data.shards import ShardWriter, document_batch
from illada.data.tokenizer import BOS_ID, EOS_ID, TextTokenizer
from illada.evaluate import nll
from illada.evaluate.nll import EvaluationError, draw_masks, evaluate_nll, window_nats
from illada.model.hf.configuration_illada import ILLaDAConfig
from illada.model.hf.modeling_illada import ILLaDAForCausalLM

if TYPE_CHECKING:
    from conftest import TinyModel

L, V, MASK = 5, 11, 5


@dataclass
class _Watched(NoProgress):
    seen: list[float] = field(default_factory=list)

    def update(self, done: float, **figures: float | str) -> None:
        self.seen.append(done)


@pytest.fixture(scope="module")
def model() -> ILLaDAForCausalLM:
    torch.manual_seed(0)
    config = ILLaDAConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    return ILLaDAForCausalLM(config).double().eval()


def _windows(n: int) -> np.ndarray:
    return np.random.default_rng(0).choice([0, 1, 2, 3, 4, 6, 7, 8, 9, 10], size=(n, L))


@torch.no_grad()
def _entropies(model: ILLaDAForCausalLM, window: np.ndarray) -> dict[tuple[int, ...], float]:
    """For each non-empty set of masked positions, the sum of their cross-entropies: straight from the definition."""
    sums = {}
    for size in range(1, len(window) + 1):
        for chosen in itertools.combinations(range(len(window)), size):
            tokens = torch.tensor(window)[None].clone()
            tokens[0, list(chosen)] = MASK
            logs = model(tokens).logits[0].log_softmax(-1)
            sums[chosen] = -sum(float(logs[i, window[i]]) for i in chosen)
    return sums


def _exact(sums: dict[tuple[int, ...], float], length: int = L) -> float:
    """integral over t in (0, 1) of E[sum / t], a polynomial in t, by Gauss-Legendre quadrature (exact to degree 15)."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    t = (nodes + 1) / 2
    integrand = sum(
        t ** (len(chosen) - 1) * (1 - t) ** (length - len(chosen)) * value for chosen, value in sums.items()
    )
    return float((weights / 2 * integrand).sum())


@pytest.mark.parametrize("draws", [1, 3])
def test_estimate_is_unbiased(model: ILLaDAForCausalLM, draws: int) -> None:
    """Each of 2 windows estimated over and over with the noise of other ids, against enumeration of its 31 masks."""
    repeats = 2000 // draws
    for window in _windows(2):
        exact = _exact(_entropies(model, window))
        repeated = np.repeat(window[None], repeats, axis=0)
        config = Evaluate(windows=2, draws=draws, seed=7)
        estimates = window_nats(model, repeated, list(range(repeats)), config, lambda done: None)
        error = estimates.std(ddof=1) / math.sqrt(repeats)
        assert error < 0.02 * exact
        assert abs(estimates.mean() - exact) < 4 * error


def test_documents_apart_are_bounded_one_by_one(model: ILLaDAForCausalLM) -> None:
    """The estimate of a window of two documents is unbiased for the sum of their exact bounds."""
    repeats, cut = 1500, 2
    (window,) = _windows(1)
    exact = sum(_exact(_entropies(model, part), len(part)) for part in (window[:cut], window[cut:]))
    repeated = np.repeat(window[None], repeats, axis=0)
    boundaries = np.repeat(np.array([[0, cut, L]]), repeats, axis=0)
    config = Evaluate(windows=2, draws=2, seed=7)
    estimates = window_nats(model, repeated, list(range(repeats)), config, lambda done: None, boundaries)
    error = estimates.std(ddof=1) / math.sqrt(repeats)
    assert error < 0.02 * exact and abs(estimates.mean() - exact) < 4 * error


def test_stratified_draws_vary_less_than_independent_ones(model: ILLaDAForCausalLM) -> None:
    window, repeats = np.repeat(_windows(1), 1000, axis=0), list(range(1000))
    single = window_nats(model, window, repeats, Evaluate(draws=1), lambda done: None)
    stratified = window_nats(model, window, repeats, Evaluate(draws=4), lambda done: None)
    assert stratified.var() < 0.95 * single.var() / 4


def test_masks_have_their_closed_form_distribution() -> None:
    """Over draws and windows: the number masked is uniform on 1..L and every position is masked equally often."""
    draws, windows = 4, 4000
    masks, weights = map(np.stack, zip(*(draw_masks(0, w, draws, L) for w in range(windows)), strict=True))
    counts = masks.sum(axis=2)
    assert np.array_equal(weights, L / counts)
    assert counts.min() == 1
    assert counts.max() == L
    for size in range(1, L + 1):
        assert abs((counts == size).mean() - 1 / L) < 4 * math.sqrt(1 / L / (draws * windows))
    share = masks.mean(axis=(0, 1))
    assert np.abs(share - (L + 1) / (2 * L)).max() < 4 * math.sqrt(0.25 / (draws * windows))
    assert not np.array_equal(draw_masks(0, 0, draws, L)[0], draw_masks(1, 0, draws, L)[0])


def test_masks_are_pinned() -> None:
    """The noise is part of what a reported number means: it must not change from version to version."""
    masks, _ = draw_masks(3, 1_000_000, 2, 8)
    assert masks.astype(int).tolist() == [[1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 1, 0, 1, 1, 0, 1]]


def test_passes_and_head_chunks_do_not_change_the_result(
    model: ILLaDAForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, ids, config = _windows(6), [4, 9, 1, 0, 100, 7], Evaluate(draws=3)
    whole = window_nats(model, tokens, ids, config, lambda done: None)
    monkeypatch.setattr(nll, "_PASS_TOKENS", 2 * L)
    monkeypatch.setattr(nll, "_HEAD_ELEMENTS", 3 * V)
    done: list[int] = []
    np.testing.assert_allclose(window_nats(model, tokens, ids, config, done.append), whole, rtol=1e-12)
    assert done == list(range(2, 19, 2))


def _shards(folder: Path, tokenizer: TextTokenizer, texts: list[str]) -> Path:
    ids = [[BOS_ID, *tokenizer.encode(text).tolist(), EOS_ID] for text in texts]
    writer = ShardWriter(folder, vocab_size=tokenizer.vocab_size, shard_tokens=500)
    names = [str(i) for i in range(len(texts))]
    sizes = [len(text.encode()) for text in texts]
    writer.add(
        document_batch(ids, ids=names, sources=["t"] * len(ids), languages=["en"] * len(ids), sizes=sizes, dtype="u2")
    )
    writer.close()
    return folder


def test_figures_of_a_folder(tiny_model: TinyModel, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(tiny_model.tokenizer)
    texts = [f"The lazy fox number {i} jumps over a package. How do I install it?" * (1 + i % 3) for i in range(40)]
    shards = _shards(tmp_path / "held_out", tokenizer, texts)
    watched = _Watched()
    config = Evaluate(windows=12, draws=3, seed=2)
    result = evaluate_nll(tiny_model.folder, shards, config, Objective(), 32, watched)
    assert result == evaluate_nll(tiny_model.folder, shards, config, Objective(random_split=0), 32, NoProgress())
    assert watched.seen[-1] == 36
    apart = evaluate_nll(tiny_model.folder, shards, config, Objective(isolate_documents=True), 32, NoProgress())
    assert apart["nll_per_token"] != result["nll_per_token"] and apart["tokens"] == result["tokens"]
    assert result["windows"] == result["windows_asked"] == 12
    assert result["windows_available"] > 12
    assert result["tokens"] == 12 * 32
    ratio = result["tokens"] / result["bytes"]
    assert result["nll_per_byte"] == pytest.approx(result["nll_per_token"] * ratio)
    assert result["bits_per_byte"] == pytest.approx(result["nll_per_byte"] / math.log(2))
    assert 0 < result["se_per_token"] < result["nll_per_token"]
    assert 0 < result["se_per_byte"] < result["nll_per_byte"]

    everything = evaluate_nll(
        tiny_model.folder, shards, Evaluate(windows=10**6, draws=1), Objective(), 32, NoProgress()
    )
    assert everything["windows"] == everything["windows_available"] == result["windows_available"]
    assert everything["windows_asked"] == 10**6


def test_a_uniform_model_scores_the_logarithm_of_the_vocabulary(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Every mask then gives L log V exactly, so the standard error per token is zero too."""
    from illada.release.export import export_model

    weights = {name: torch.zeros_like(tensor) for name, tensor in tiny_model.weights.items()}
    export_model(weights, tiny_model.config, tiny_model.tokenizer, tmp_path / "model")
    tokenizer = TextTokenizer.load(tiny_model.tokenizer)
    shards = _shards(tmp_path / "held_out", tokenizer, ["The quick brown fox. " * 20] * 4)
    result = evaluate_nll(tmp_path / "model", shards, Evaluate(windows=5, draws=2), Objective(), 24, NoProgress())
    assert result["nll_per_token"] == pytest.approx(math.log(tiny_model.config.vocab_size), rel=1e-6)
    assert result["se_per_token"] < 1e-6


def test_what_cannot_be_evaluated_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.load(tiny_model.tokenizer)
    shards = _shards(tmp_path / "held_out", tokenizer, ["A short text."])
    with pytest.raises(EvaluationError, match=r"raise data\.tokenize\.held_out"):
        evaluate_nll(tiny_model.folder, shards, Evaluate(), Objective(), 64, NoProgress())
    long = _shards(tmp_path / "long", tokenizer, ["The quick brown fox. " * 200])
    with pytest.raises(EvaluationError, match="96 positions"):
        evaluate_nll(tiny_model.folder, long, Evaluate(), Objective(), 128, NoProgress())
