"""A checkpoint of an unfinished training stage becomes an artifact: checked byte by byte, logits as they were."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_release_logits import inputs, megatron_logits
from train_helpers import MODEL, TRAINING, placement, write_shards
from train_ranks import job, on_ranks

from illada.artifacts import Artifact, NoProgress, StageIdentity, Store, write_json
from illada.config import Checkpoint, ConfigError
from illada.data.tokenizer import save_tokenizer, train_tokenizer
from illada.release.export import export_model
from illada.sample.model import load
from illada.train.checkpoint import FOLDER, CheckpointError
from illada.train.export import export_weights
from illada.train.stage import IDENTITY
from workflows.checkpoints import (
    CHECKPOINT_VERSION,
    STAGE,
    Found,
    adopt_checkpoint,
    adopted_config,
    choose,
    find_checkpoints,
)

TOKENS = StageIdentity(stage="tokenize", version=1, config={}, inputs={})
IDENTITY_OF_STAGE = StageIdentity(
    stage="pretrain",
    version=1,
    config={"training": TRAINING.identity(), "model": MODEL.identity()},
    inputs={"tokens": TOKENS.fingerprint},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose only stage trained 20 steps under 2 x 1 ranks, has checkpoints of 10 and 20, and is unpublished."""
    root = tmp_path_factory.mktemp("unfinished")
    store = Store(root / "store")
    with store.attempt(TOKENS) as attempt:
        store.publish(attempt, {}, {}, 0.0)
    work = store.folder("pretrain", IDENTITY_OF_STAGE.fingerprint) / "work"
    assert work.path is not None
    on_ranks(job(work.path, write_shards(root / "shards"), placement(2)))
    write_json(work.path / IDENTITY, {key: getattr(IDENTITY_OF_STAGE, key) for key in ("version", "config", "inputs")})
    return store


@pytest.fixture
def store(trained: Store, tmp_path: Path) -> Store:
    """A copy that a test may change."""
    shutil.copytree(trained.root.url, tmp_path / "store")
    return Store(tmp_path / "store")


def found(store: Store) -> list[Found]:
    return find_checkpoints(store, "mine", [("tokenize", "1" * 64), ("pretrain", IDENTITY_OF_STAGE.fingerprint)])


def step_folder(store: Store, step: int) -> Path:
    work = store.folder("pretrain", IDENTITY_OF_STAGE.fingerprint) / "work"
    assert work.path is not None
    return work.path / FOLDER / f"step-{step:08d}"


def adopt(store: Store, checkpoint: Checkpoint) -> Artifact:
    identity = StageIdentity(
        stage=STAGE, version=CHECKPOINT_VERSION, config=adopted_config(checkpoint), inputs=checkpoint.inputs
    )
    with store.attempt(identity) as attempt:
        statistics = adopt_checkpoint(checkpoint, store, 10_000, attempt, progress=NoProgress())
        return store.publish(attempt, statistics, {}, 0.0)


def test_logits_of_a_step_survive_its_removal(store: Store, tmp_path: Path) -> None:
    assert [(entry.step, entry.kind) for entry in found(store)] == [(10, "unfinished"), (20, "unfinished")]
    expected = {}
    for step in (10, 20):
        look = job(tmp_path / f"look-{step}", tmp_path, placement())
        on_ranks(look, megatron_logits, str(step_folder(store, step)), str(tmp_path / f"{step}.npy"))
        expected[step] = np.load(tmp_path / f"{step}.npy")

    artifact = adopt(store, choose(found(store), "mine", None, 10).checkpoint)
    shutil.rmtree(step_folder(store, 10).parent.parent)
    artifact.verify()
    assert [(entry.step, entry.kind) for entry in found(store)] == [(10, "kept")]
    assert choose(found(store), "mine", "pretrain", 10).checkpoint.content == artifact.record["config"]["content"]
    manifest = artifact.location.read_json("checkpoint/checkpoint.json")
    assert manifest["step"] == 10 and "epoch" not in manifest
    figures = artifact.statistics
    assert (figures["steps"], figures["tokens"], figures["epochs"]) == (10, 10 * 8 * 32, 0.256)
    assert figures["final_loss"] > 0

    weights = export_weights(artifact.location / "checkpoint", MODEL)
    model = MODEL.model_copy(update={"vocab_size": 320})
    embedding = weights["model.embed_tokens.weight"]
    padding = embedding.new_zeros(320 - len(embedding), MODEL.hidden_size)
    weights["model.embed_tokens.weight"] = torch.cat([embedding, padding])
    save_tokenizer(train_tokenizer(["0123456789 abc abc"], 263, 1), tmp_path / "tokenizer")
    export_model(weights, model, tmp_path / "tokenizer", tmp_path / "release")
    with torch.no_grad():
        logits = load(tmp_path / "release")[0](input_ids=inputs()).logits[..., : MODEL.vocab_size].numpy()
    assert np.abs(expected[10] - logits).max() <= 1e-4
    assert np.abs(expected[20] - logits).max() > 1e-2


def test_a_damaged_checkpoint_is_refused_and_left_where_it_is(store: Store) -> None:
    chosen = choose(found(store), "mine", "pretrain", 20).checkpoint
    victim = next(step_folder(store, 20).glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"step 20 of pretrain/.*: {victim.name} is not as its manifest says"):
        adopt(store, chosen)
    assert victim.read_bytes() == data
    assert not store.artifacts(STAGE)


def test_an_incomplete_or_removed_or_rewritten_checkpoint_is_one_line(store: Store) -> None:
    ten, twenty = (entry.checkpoint for entry in found(store))
    with pytest.raises(CheckpointError, match=r"step 20 of pretrain/.*: was written again since it was chosen"):
        adopt(store, twenty.model_copy(update={"content": "0" * 64}))
    next(step_folder(store, 20).glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"step 20 of pretrain/.*: is incomplete or was removed just now"):
        adopt(store, twenty)
    shutil.rmtree(step_folder(store, 10))
    with pytest.raises(CheckpointError, match=r"step-00000010/checkpoint\.json is missing"):
        adopt(store, ten)
    assert [entry.step for entry in found(store)] == [20]
    assert not store.artifacts(STAGE)


@pytest.mark.parametrize(
    ("stage", "step", "message"),
    [
        (None, None, "training has not ended; its checkpoints: pretrain step 10 (unfinished), pretrain step 20"),
        ("pretrain", 15, "pretrain has no checkpoint of step 15; its checkpoints: pretrain step 10"),
        ("sft", 10, "sft has no checkpoint of step 10"),
    ],
)
def test_choosing_what_there_is_not(trained: Store, stage: str | None, step: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match="run 'mine': ") as caught:
        choose(found(trained), "mine", stage, step)
    assert message in str(caught.value)


def test_the_result_is_chosen_by_default_and_the_last_stage_that_has_one(trained: Store) -> None:
    ten, twenty = found(trained)
    result = dataclasses.replace(twenty, kind="result")
    assert choose([ten, result], "mine", None, None) is result
    assert choose([ten, result], "mine", None, 10) is ten
    with pytest.raises(ConfigError, match="its checkpoints: none"):
        choose([], "mine", None, None)
