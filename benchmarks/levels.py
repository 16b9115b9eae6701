"""What stratified noise levels save: variance of loss and gradient at fixed weights, against independent levels.

A small model is trained for a while; then, weights fixed, the loss and gradient of many global batches are computed
twice, on the same windows and with the same random numbers but for the levels. Means must agree (their difference is
printed in standard errors); the variance of the gradient is the sum of its components' variances.

What is saved is the variance between levels: it grows with the window against that within them (about ln(1 / eps) times
the squared cross-entropy over the window), and with how much the loss depends on the level. So --data counting, texts
that a small model learns well in a minute, shows another figure than --data python, Python's own library, of which it
learns little more than how frequent tokens are.

    python benchmarks/levels.py --to out/bench/levels.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from illada.artifacts import write_json
from illada.config import ModelConfig, Objective
from illada.data.loader import Loader
from illada.data.shards import ShardWriter, TokenShards, document_batch
from illada.data.tokenizer import BOS_ID, EOS_ID, MASK_ID, TextTokenizer, train_tokenizer
from illada.data.windows import Windows
from illada.model.hf.configuration_illada import ILLaDAConfig
from illada.model.hf.modeling_illada import ILLaDAForCausalLM
from illada.model.weights import hf_tensor_names, initial_tensor
from illada.release.export import configuration

VOCABULARY, FILES = 512, 150
LEVELS = ("independent", "stratified")


def main() -> None:
    """Train, measure, print one JSON object; also write it to --to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("window", 256), ("batch", 16), ("train-steps", 800), ("batches", 200), ("hidden", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--data", choices=("counting", "python"), default="counting")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = _model(options.hidden, options.window)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        texts = _counting() if options.data == "counting" else _library()
        windows = Windows(_shards(Path(folder), texts), options.window)
        loaders = {
            levels: Loader(windows, options.batch, 0, Objective(random_split=0.0, levels=levels)) for levels in LEVELS
        }
        final = _train(model, loaders["independent"], options.train_steps)
        steps = range(options.train_steps, options.train_steps + options.batches)
        found = {levels: _measure(model, loader, steps) for levels, loader in loaders.items()}
    independent, stratified = (found[levels] for levels in LEVELS)
    error = math.sqrt((independent["loss_variance"] + stratified["loss_variance"]) / options.batches)
    result = {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        **{name: value for name, value in vars(options).items() if name != "to"},
        "last_training_loss": final,
        **found,
        "difference_of_means_in_standard_errors": (stratified["loss"] - independent["loss"]) / error,
        "loss_variance_ratio": independent["loss_variance"] / stratified["loss_variance"],
        "gradient_variance_ratio": independent["gradient_variance"] / stratified["gradient_variance"],
        "cpu_seconds": time.process_time() - started,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))
    if options.to:
        write_json(options.to, result)


def _counting() -> list[list[int]]:
    """Documents that count upwards from anywhere, in circles over some ids."""
    generator = np.random.default_rng(0)
    count = 57
    starts, lengths = generator.integers(count, size=4000), generator.integers(50, 200, size=4000)
    return [
        (7 + np.arange(start, start + length) % count).tolist() for start, length in zip(starts, lengths, strict=True)
    ]


def _library() -> list[list[int]]:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:FILES]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    tokenizer = TextTokenizer(train_tokenizer(texts, VOCABULARY, 2))
    return [ids.tolist() for ids in tokenizer.encode_batch(texts)]


def _shards(folder: Path, texts: list[list[int]]) -> TokenShards:
    rows = [[BOS_ID, *ids, EOS_ID] for ids in texts]
    writer = ShardWriter(folder / "shards", vocab_size=VOCABULARY, shard_tokens=2**28)
    same = {"sources": ["bench"] * len(rows), "languages": ["none"] * len(rows), "sizes": [len(row) for row in rows]}
    writer.add(document_batch(rows, ids=[str(number) for number in range(len(rows))], **same, dtype=np.uint16))
    writer.close()
    return TokenShards.open(folder / "shards")


def _model(hidden: int, window: int) -> ILLaDAForCausalLM:
    config = ModelConfig(
        layers=2,
        hidden_size=hidden,
        heads=4,
        kv_heads=2,
        ffn_size=3 * hidden,
        vocab_size=VOCABULARY,
        max_positions=window,
        init_std=0.08,
    )
    model = ILLaDAForCausalLM(ILLaDAConfig(**configuration(config)))
    model.load_state_dict({name: initial_tensor(config, name, 0) for name in hf_tensor_names(config)}, strict=False)
    return model


def _loss(model: ILLaDAForCausalLM, loader: Loader, step: int) -> tuple[torch.Tensor, int]:
    batch = loader.batch(step, 0, loader.global_batch)
    tokens, mask, weight = (torch.from_numpy(array) for array in (batch.tokens, batch.mask, batch.weight))
    hidden = model.model(tokens.masked_fill(mask, MASK_ID)).last_hidden_state[mask]
    nats = torch.nn.functional.cross_entropy(model.lm_head(hidden), tokens[mask], reduction="none")
    return (nats * weight[mask]).sum() / tokens.numel(), int(mask.sum())


def _train(model: ILLaDAForCausalLM, loader: Loader, steps: int) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = _loss(model, loader, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-20:]))


def _measure(model: ILLaDAForCausalLM, loader: Loader, steps: range) -> dict[str, float]:
    """Mean and variance of the loss of a global batch, of its gradient, and of its masked positions."""
    losses, masked = np.empty(len(steps)), np.empty(len(steps))
    total: NDArray[np.float64] | None = None
    squares = 0.0
    for place, step in enumerate(steps):
        model.zero_grad()
        loss, masked[place] = _loss(model, loader, step)
        loss.backward()
        gradient = np.concatenate([tensor.grad.flatten().numpy() for tensor in model.parameters()]).astype(np.float64)
        losses[place] = loss.item()
        total = gradient if total is None else total + gradient
        squares += float(gradient @ gradient)
    assert total is not None
    count = len(steps)
    return {
        "loss": float(losses.mean()),
        "loss_variance": float(losses.var(ddof=1)),
        "gradient_variance": (squares - float(total @ total) / count) / (count - 1),
        "masked_variation": float(masked.std(ddof=1) / masked.mean()),
    }


if __name__ == "__main__":
    main()
