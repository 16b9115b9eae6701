"""The demo's model and objective, 20 steps on fixed tokens, against the trace kept in the repository.

A change of the numbers is a change of results: raise TRAIN_VERSION and write the trace anew, saying why, with

    ILLADA_WRITE_GOLDEN=1 python -m pytest tests/train/test_golden_trace.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from train_helpers import placement, trace
from train_ranks import job, on_ranks

from illada.config import WorkflowConfig, load_config
from illada.data.shards import ShardWriter, document_batch

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden_demo_losses.jsonl")
STEPS = 20
TOLERANCE = 2e-4  # processors sum in different orders; a wrong mask, weight or rate shows at the first step

sys.path.append(str(ROOT / "benchmarks"))


def write_tokens(folder: Path, vocab_size: int) -> Path:
    """Documents with Zipf-like frequencies, from raw 64-bit draws, which numpy keeps stable."""
    folder.mkdir()
    draws = np.random.PCG64(11).random_raw(64 * 1024).astype(np.float64) / 2**64
    tokens = 7 + np.minimum((np.exp(draws * np.log(vocab_size - 7)) - 1).astype(np.int64), vocab_size - 8)
    documents = list(tokens.reshape(64, 1024))
    writer = ShardWriter(folder, vocab_size=vocab_size, shard_tokens=2**28)
    names = [str(number) for number in range(len(documents))]
    writer.add(
        document_batch(
            documents,
            ids=names,
            sources=["golden"] * len(names),
            languages=["none"] * len(names),
            sizes=[1024] * len(names),
            dtype=np.uint16,
        )
    )
    writer.close()
    return folder


def test_demo_trains_as_it_did(tmp_path: Path) -> None:
    from compare_losses import compare

    config = load_config(ROOT / "configs" / "workflows" / "demo.yaml", WorkflowConfig)
    schedule = config.pretrain.schedule.model_copy(update={"warmup_steps": 5})
    training = config.pretrain.model_copy(update={"steps": STEPS, "epochs": None, "schedule": schedule})
    shards = write_tokens(tmp_path / "shards", config.model.vocab_size)
    layout = placement(micro_batch=8, checkpoint_steps=1000)
    on_ranks(job(tmp_path / "work", shards, layout, training=training, model=config.model))
    made = tmp_path / "work" / "metrics.jsonl"
    if os.environ.get("ILLADA_WRITE_GOLDEN"):
        rows = [
            {name: row[name] for name in ("step", "loss", "grad_norm", "lr", "masked_fraction")} for row in trace(made)
        ]
        GOLDEN.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(made, GOLDEN, TOLERANCE)
    assert found.steps == STEPS
    assert found.first is None, found.first
