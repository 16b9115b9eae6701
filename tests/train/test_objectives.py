"""LLaDA's fine-tuning, levels stratified: the same training under every layout, the published loss in float64."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from train_helpers import MODEL, TRAINING, placement, trace
from train_ranks import job, on_ranks

from illada.config import Objective, Responses
from illada.data.conversation_loader import ConversationLoader
from illada.data.shards import ShardWriter, document_batch
from illada.data.tokenizer import EOS_ID, IM_END_ID, IM_START_ID, MASK_ID
from illada.model.hf.configuration_illada import ILLaDAConfig
from illada.model.hf.modeling_illada import ILLaDAForCausalLM
from illada.model.weights import hf_tensor_names, initial_tensor
from illada.release.export import configuration
from illada.train.errors import RanksStoppedError
from illada.train.job import Job

PREFIX = [IM_START_ID, 8, 9]
LONG = MODEL.model_copy(update={"max_positions": 96})
TUNING = TRAINING.model_copy(
    update={
        "window": 96,
        "steps": 6,
        "objective": Objective(random_split=0.0, levels="stratified", responses=Responses()),
    }
)
LAYOUTS = [{"data": 2}, {"tensor": 2, "context": 2}, {"context": 2, "pipeline": 2, "data": 2}]
SLOW = [pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS[1:]]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most of up to 50 tokens, some of up to 95: so that ranks have rows of different lengths."""
    folder = tmp_path_factory.mktemp("conversations") / "train"
    generator = np.random.default_rng(0)
    rows = []
    for number in range(40):
        prompt, response = (10 + generator.integers(54, size=generator.integers(5, 15)) for _ in range(2))
        response = np.tile(response, 4 if number % 8 == 0 else 1)
        rows.append([IM_START_ID, 7, 9, *prompt, IM_END_ID, 9, *PREFIX, *response, IM_END_ID, 9, EOS_ID])
    writer = ShardWriter(folder, vocab_size=MODEL.vocab_size, shard_tokens=500)
    names = [str(number) for number in range(len(rows))]
    sizes = [len(row) for row in rows]
    texts = {"ids": names, "sources": ["test"] * len(rows), "languages": ["en"] * len(rows), "sizes": sizes}
    writer.add(document_batch(rows, **texts, dtype=np.uint16))
    writer.close(PREFIX)
    return folder


def task(work: Path, conversations: Path, **ranks: int) -> Job:
    return job(work, conversations, placement(**ranks, checkpoint_steps=3), training=TUNING, model=LONG)


@pytest.fixture(scope="module")
def reference(conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an uninterrupted run on one rank."""
    work = tmp_path_factory.mktemp("tuned")
    on_ranks(task(work, conversations))
    return work


@pytest.mark.parametrize("ranks", [LAYOUTS[0], *SLOW], ids=str)
def test_trace_is_that_of_one_rank(ranks: dict[str, int], reference: Path, conversations: Path, tmp_path: Path) -> None:
    on_ranks(task(tmp_path, conversations, **ranks))
    rows, expected = trace(tmp_path / "metrics.jsonl"), trace(reference / "metrics.jsonl")
    assert len(rows) == len(expected) == TUNING.steps
    for row, other in zip(rows, expected, strict=True):
        for exact in ("step", "epoch", "lr", "masked_fraction", "tokens", "positions_by_noise"):
            assert row[exact] == other[exact]
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        losses = [None if loss is None else pytest.approx(loss, rel=1e-5) for loss in other["loss_by_noise"]]
        assert row["loss_by_noise"] == losses


def test_the_first_loss_is_the_published_one(reference: Path, conversations: Path) -> None:
    """Row by row, on nothing but prompt, response and the EOS up to its neighbour's end, by the released twin."""
    loader = task(reference, conversations).loader()
    assert isinstance(loader, ConversationLoader)
    widths = [[loader.batch(step, first, 4).tokens.shape[1] for first in (0, 4)] for step in range(6)]
    assert [64, 96] in widths or [96, 64] in widths, "ranks with rows of different lengths"
    twin = ILLaDAForCausalLM(ILLaDAConfig(**configuration(LONG))).double().eval()
    weights = {name: initial_tensor(LONG, name, TUNING.seed).double() for name in hf_tensor_names(LONG)}
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    batch, loss = loader.batch(0, 0, 8), 0.0
    for row in range(8):
        clean = batch.tokens[row].tolist()
        both = [batch.tokens[number].tolist() for number in (row - row % 2, row - row % 2 + 1)]
        length = max(tokens.index(EOS_ID) for tokens in both) + 1
        prompt = _prompt_length(clean)
        mask = torch.from_numpy(batch.mask[row, :length])
        assert not mask[:prompt].any() and not batch.mask[row, length:].any()
        ids = torch.tensor(clean[:length])
        with torch.no_grad():
            logits = twin(input_ids=ids.masked_fill(mask, MASK_ID)[None]).logits[0]
        p = (1 - 1e-3) * float(batch.level[row, 0]) + 1e-3
        each = torch.nn.functional.cross_entropy(logits[mask], ids[mask], reduction="sum")
        loss += float(each) / p / (length - prompt) / 8
    assert trace(reference / "metrics.jsonl")[0]["loss"] == pytest.approx(loss, rel=1e-5)


def _prompt_length(tokens: list[int]) -> int:
    """Up to and with the header of the assistant's turn, which is the last one."""
    return len(tokens) - tokens[::-1].index(IM_START_ID) - 1 + len(PREFIX)


@pytest.mark.slow
def test_resume_repeats_every_bit(reference: Path, conversations: Path, tmp_path: Path) -> None:
    half = task(tmp_path, conversations)
    on_ranks(half, stop_after_three)
    assert len(trace(tmp_path / "metrics.jsonl")) == 3
    on_ranks(half)
    assert trace(tmp_path / "metrics.jsonl") == trace(reference / "metrics.jsonl")


def stop_after_three(half: Job) -> None:
    """The run of one rank, asked to stop once three updates are made."""
    from illada.train.loop import run  # needs Megatron, which the ranks have imported

    stop = threading.Event()
    with pytest.raises(RanksStoppedError):
        run(half, stop, lambda row: stop.set() if row["step"] == 3 else None)
