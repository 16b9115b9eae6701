"""The models, data and settings that `training.py` measures with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from illada.config import ModelConfig, Objective, Schedule, Training, TrainPlacement
from illada.data.shards import ShardWriter, document_batch, token_dtype

PEAK_RATE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model and a dtype. `batch` windows of `window` tokens a step; ours takes `micro_batch` of them at a time."""

    name: str
    model: ModelConfig
    dtype: str
    window: int = 512
    batch: int = 8
    micro_batch: int = 8

    def training(self, steps: int) -> Training:
        """Our settings: LLaDA's objective, no random splits, which the other loops do not have."""
        return Training(
            window=self.window,
            global_batch=self.batch,
            steps=steps,
            dtype=self.dtype,
            objective=Objective(random_split=0.0),
            schedule=Schedule(peak=PEAK_RATE, minimum=PEAK_RATE, warmup_steps=0, decay="cosine", decay_fraction=0.0),
        )

    def placement(self, threads: int) -> TrainPlacement:
        """One rank."""
        return TrainPlacement(micro_batch=self.micro_batch, cpus_per_rank=threads, checkpoint_steps=10**9)


_MODELS = {
    "24M": ModelConfig(
        layers=6, hidden_size=384, heads=6, kv_heads=6, ffn_size=1152, vocab_size=32_768, max_positions=512
    ),
    "100M": ModelConfig(
        layers=10, hidden_size=512, heads=8, kv_heads=8, ffn_size=1408, vocab_size=131_072, max_positions=512
    ),
}
CASES = {
    f"{size}-{dtype}": Case(name=f"{size}-{dtype}", model=model, dtype=dtype)
    for size, model in _MODELS.items()
    for dtype in ("float32", "bfloat16")
}


def write_shards(folder: Path, case: Case, windows: int = 512) -> None:
    """Token shards of random windows."""
    folder.mkdir(parents=True)
    vocabulary = case.model.vocab_size
    generator = np.random.default_rng(0)
    rows = [generator.integers(7, vocabulary, case.window) for _ in range(windows)]
    writer = ShardWriter(folder, vocab_size=vocabulary, shard_tokens=2**28)
    writer.add(
        document_batch(
            rows,
            ids=[str(number) for number in range(len(rows))],
            sources=["benchmark"] * len(rows),
            languages=["none"] * len(rows),
            sizes=[len(row) for row in rows],
            dtype=token_dtype(vocabulary),
        )
    )
    writer.close()
