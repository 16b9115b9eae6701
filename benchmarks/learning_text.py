"""What `benchmarks/learning.py` trains on and measures against: the real chain's shards, and a unigram model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from illada.artifacts import write_json
from illada.config import ModelConfig
from illada.data.permutation import Permutation
from illada.data.shards import ShardWriter, TokenShards, document_batch, token_dtype
from illada.data.tokenizer import TextTokenizer
from illada.data.windows import Windows

VOCABULARY = 2048


def run_chain(
    pages: Sequence[str], conversations: Sequence[str], model: ModelConfig, folder: Path, store: Path
) -> None:
    """`illada run` into `store`, with trainings of one step."""
    once = {
        "window": model.max_positions,
        "global_batch": 2,
        "steps": 1,
        "schedule": {"peak": 1e-3, "minimum": 0, "warmup_steps": 0, "decay": "linear", "decay_fraction": 0},
    }
    config = {
        "name": "learning",
        "data": {
            "sources": [{"kind": "warc", "name": "pages", "paths": [str(Path(path).resolve()) for path in pages]}],
            "tokenizer": {"vocab_size": VOCABULARY},
            "tokenize": {"held_out": 0.05},
            "pairs": {"files": [str(Path(path).resolve()) for path in conversations], "held_out": 0.1},
        },
        "model": model.identity(),
        "pretrain": once,
        "sft": once,
        "evaluate": {"windows": 2, "draws": 1},
        "release": {
            "model_name": "learning",
            "gates": {"evaluation": [{"metric": "held_out.nll_per_byte", "at_most": 99}]},
            "waivers": dict.fromkeys(("decontamination", "licences"), "nothing is released"),
        },
        "placement": {"store": str(store), "output": str(folder / "output"), "ray_cpus": 2},
    }
    write_json(folder / "chain.yaml", config)
    environment = {**os.environ, "ILLADA_DATABASE": f"sqlite:///{folder}/runs.db"}
    command = [sys.executable, "-m", "illada.cli.main", "run", str(folder / "chain.yaml")]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def part_of(windows: Windows, count: int, folder: Path) -> Path:
    """Shards of so many windows, drawn at random."""
    chosen = Permutation(len(windows), 0, 0, domain="part").take(np.arange(count))
    folder.mkdir()
    writer = ShardWriter(folder, vocab_size=VOCABULARY, shard_tokens=2**28)
    rows = [windows[int(index)] for index in chosen]
    same = {"sources": ["pages"] * count, "languages": ["en"] * count, "sizes": [len(row) for row in rows]}
    writer.add(document_batch(rows, ids=[str(i) for i in chosen], **same, dtype=token_dtype(VOCABULARY)))
    writer.close()
    return folder


def text_bytes(windows: Windows, tokenizer: Path) -> int:
    """Of text in all windows."""
    sizes = TextTokenizer.load(tokenizer).token_bytes
    return int(sum(sizes[windows[index]].sum() for index in range(len(windows))))


def _held_out(shards: Path, window: int, count: int) -> np.ndarray:
    """The windows that `evaluate_nll` takes: int64 [n, window]."""
    windows = Windows(TokenShards.open(shards), window)
    order = Permutation(len(windows), 0, 0, domain="evaluate").take(np.arange(min(count, len(windows))))
    return np.stack([windows[int(index)] for index in order]).astype(np.int64)


def unigram(train: TokenShards, held_out: Path, tokenizer: Path, window: int, count: int) -> float:
    """Bits per byte of the held-out windows, tokens being independent, each as frequent as in training plus one."""
    counts = np.ones(VOCABULARY)
    for shard in range(len(train.counts)):
        counts += np.bincount(train.values(shard), minlength=VOCABULARY)
    tokens = _held_out(held_out, window, count)
    size = int(TextTokenizer.load(tokenizer).token_bytes[tokens].sum())
    return float(-np.log2(counts / counts.sum())[tokens].sum()) / size
