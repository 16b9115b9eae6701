"""Trains the network of `pipelines.fast` on one half of the ground truth and writes its weights.

python benchmarks/extraction_weights.py --pages FOLDER [--output pipelines/fast/weights.json]

FOLDER: see benchmarks/ground_truth.py. A block's label is the share of its word 4-grams that the page's truth has (of a
shorter block: whether its words are there in a row), its weight the part it has in the page's F1. Prints the F1 of the
half it was trained on; `benchmarks/extraction.py` scores the other one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ground_truth import Labelled, agreement, labelled_pages, words
from resiliparse.parse.html import HTMLTree
from torch import Tensor, nn

from pipelines.fast.blocks import WEIGHTS, Blocks, Network, main_blocks
from pipelines.fast.kernels import features

HIDDEN = 32
DROPOUT = 0.2
EPOCHS = 12
BATCH = 2048
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.3
GRAM = 4


def main() -> None:
    """Train, write, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.manual_seed(1)
    pages = [page for page in labelled_pages(options.pages) if page.half == 0]
    blocks = [main_blocks(HTMLTree.parse(page.html)) for page in pages]
    network = train(pages, blocks)
    stored = {name: np.round(value.astype(np.float64), 4).tolist() for name, value in network._asdict().items()}
    options.output.write_text(json.dumps(stored) + "\n")
    results = [agreement(some.joined(network.keep(some)), page.truth) for page, some in zip(pages, blocks, strict=True)]
    print(json.dumps({"pages": len(pages), "f1": round(float(np.mean([f1 for _, _, f1 in results])), 4)}))


def train(pages: list[Labelled], blocks: list[Blocks]) -> Network:
    """The network after the last epoch; its inputs' means and deviations are part of its first layer."""
    labelled = [label(page, some) for page, some in zip(pages, blocks, strict=True)]
    inputs = torch.tensor(np.concatenate([features(some.own) for some in blocks]))
    targets, weights = (torch.tensor(np.concatenate([pair[i] for pair in labelled])) for i in (0, 1))
    weights /= weights.mean()
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-3
    scaled = (inputs - mean) / deviation
    first, second = nn.Linear(inputs.shape[1], HIDDEN), nn.Linear(HIDDEN, 1)
    model = nn.Sequential(nn.Dropout(DROPOUT), first, nn.ReLU(), second)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(scaled)).split(BATCH):
            losses = nn.functional.binary_cross_entropy_with_logits(
                model(scaled[batch])[:, 0], targets[batch], weight=weights[batch]
            )
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        matrix = first.weight / deviation
        bias = first.bias - matrix @ mean
    return Network(_array(matrix.T), _array(bias), _array(second.weight[0]), np.float32(second.bias.item()))


def label(page: Labelled, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Target and weight of each block, float32 [blocks]."""
    truth = words(page.truth)
    line = f" {' '.join(truth)} "
    grams = set(_grams(truth))
    texts = [words(text) for text in blocks.texts()]
    targets = [
        float(np.mean([gram in grams for gram in _grams(text)])) if len(text) >= GRAM else f" {' '.join(text)} " in line
        for text in texts
    ]
    sizes = np.array([len(text) for text in texts], np.float32)
    return np.array(targets, np.float32) * (sizes > 0), sizes / (len(truth) + sizes.sum() + 1)


def _grams(text: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*[text[i:] for i in range(GRAM)], strict=False))


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


if __name__ == "__main__":
    main()
