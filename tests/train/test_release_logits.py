"""Logits of the exported model equal the Megatron model's, from a checkpoint that 2 x 2 ranks wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from train_helpers import MODEL, WINDOW, placement, write_shards
from train_ranks import job, on_ranks

from illada.artifacts import Folder
from illada.data.tokenizer import save_tokenizer, train_tokenizer
from illada.model.megatron import build_module
from illada.release.export import export_model
from illada.sample.model import load
from illada.train import state
from illada.train.checkpoint import FOLDER, Stored
from illada.train.export import export_weights
from illada.train.job import Job
from illada.train.parallel import initialise_groups


def inputs() -> torch.Tensor:
    """int64 [4, WINDOW]."""
    return torch.randint(7, MODEL.vocab_size, (4, WINDOW), generator=torch.Generator().manual_seed(3))


def megatron_logits(task: Job, checkpoint: str, to: str) -> None:
    """On every rank of a layout: load the checkpoint, keep the logits of whole, unsplit windows."""
    initialise_groups(task.placement)
    module = build_module(task.model, dtype=torch.float32)
    state.load_weights(Stored.at(Folder.at(checkpoint)), [module])
    module.eval()
    boundaries = torch.tensor([[0, WINDOW, WINDOW]] * 4, dtype=torch.int32)
    with torch.no_grad():
        logits = module(inputs(), boundaries)
    if torch.distributed.get_rank() == 0:
        np.save(to, logits.numpy())


def test_release_logits_are_the_trained_model_s(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    on_ranks(job(tmp_path / "work", shards, placement(2, 2)))
    checkpoint = sorted((tmp_path / "work" / FOLDER).iterdir())[-1]
    for tensor in (1, 2):
        target = tmp_path / f"logits-{tensor}.npy"
        task = job(tmp_path / f"look-{tensor}", shards, placement(tensor))
        on_ranks(task, megatron_logits, str(checkpoint), str(target))

    save_tokenizer(train_tokenizer(["0123456789 abc abc"], 263, 1), tmp_path / "tokenizer")
    vocabulary = MODEL.model_copy(update={"vocab_size": 320})
    weights = export_weights(checkpoint, MODEL)
    embedding = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat(
        [embedding, embedding.new_zeros(320 - len(embedding), MODEL.hidden_size)]
    )
    export_model(weights, vocabulary, tmp_path / "tokenizer", tmp_path / "release")
    twin, _ = load(tmp_path / "release")
    with torch.no_grad():
        logits = twin(input_ids=inputs()).logits[..., : MODEL.vocab_size].numpy()
    for tensor in (1, 2):
        difference = np.abs(np.load(tmp_path / f"logits-{tensor}.npy") - logits).max()
        assert difference <= 1e-4, difference
