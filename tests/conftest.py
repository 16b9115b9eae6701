"""Fixtures that more than one room's tests use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from illada.config import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyModel:
    """A random model of a few thousand parameters: its pieces, and the folder they were exported to."""

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    tokenizer: Path
    folder: Path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Exported once a session: tests must not change the folder."""
    from illada.config import ModelConfig
    from illada.data.tokenizer import save_tokenizer, train_tokenizer
    from illada.model.weights import hf_tensor_names, initial_tensor
    from illada.release.export import export_model

    root = tmp_path_factory.mktemp("tiny")
    texts = ["The quick brown fox jumps over the lazy dog. " * 5, "How do I install a package? apt install it."]
    save_tokenizer(train_tokenizer(texts, 300, 2), root / "tokenizer")
    config = ModelConfig(
        layers=2, hidden_size=32, heads=4, kv_heads=2, ffn_size=48, vocab_size=320, max_positions=96, init_std=0.3
    )
    weights = {name: initial_tensor(config, name, seed=0) for name in hf_tensor_names(config)}
    export_model(weights, config, root / "tokenizer", root / "model")
    return TinyModel(config=config, weights=weights, tokenizer=root / "tokenizer", folder=root / "model")
