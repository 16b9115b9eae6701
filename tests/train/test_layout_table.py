"""The same training under every kind of parallelism and their products, each held against one rank.

Losses, gradient norms and, after the last update, weights, of a model whose embeddings are tied and whose windows are
cut at random and between documents, so that segments end within the slices of context-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from train_helpers import MODEL, TRAINING, placement, published, trace, write_shards
from train_ranks import in_turn, job

from illada.config import Objective, TrainPlacement
from illada.model.weights import initial_tensor
from illada.train.checkpoint import FOLDER
from illada.train.export import export_weights
from illada.train.job import Job


def name(layout: dict[str, int]) -> str:
    return " x ".join(f"{kind} {ranks}" for kind, ranks in layout.items())


TIED = MODEL.model_copy(update={"layers": 4, "heads": 8, "kv_heads": 4, "tied_embeddings": True})
SHORT = TRAINING.model_copy(update={"steps": 3, "objective": Objective(random_split=0.8, isolate_documents=True)})
GROUPS: dict[str, list[dict[str, int]]] = {  # of one world each, started once
    "four": [
        {"tensor": 2, "context": 2},
        {"tensor": 2, "pipeline": 2, "virtual": 2},
        {"context": 2, "data": 2},
    ],
    "two": [{"tensor": 2}, {"context": 2}, {"pipeline": 2}, {"pipeline": 2, "virtual": 2}, {"data": 2}],
    "more of four": [
        {"tensor": 4},
        {"context": 4},
        {"pipeline": 4},
        {"pipeline": 2, "virtual": 2, "data": 2},
        {"context": 2, "pipeline": 2},
    ],
    "eight": [
        {"data": 8},
        {"tensor": 2, "context": 2, "pipeline": 2, "virtual": 2},
        {"tensor": 2, "pipeline": 2, "data": 2},
        {"context": 2, "pipeline": 2, "virtual": 2, "data": 2},
        {"tensor": 2, "context": 2, "data": 2},
        {"tensor": 4, "pipeline": 2},
    ],
}
TABLE = [
    pytest.param(group, layout, id=name(layout), marks=() if group == "four" else pytest.mark.slow)
    for group, layouts in GROUPS.items()
    for layout in layouts
]

Run = Callable[[str], dict[str, Path]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains the layouts of a group when it is first asked for; gives their work folders by name."""
    root = tmp_path_factory.mktemp("layouts")
    shards = write_shards(root / "shards")
    done: dict[str, dict[str, Path]] = {}

    def run(group: str) -> dict[str, Path]:
        if group not in done:
            layouts = [{}] if group == "one" else GROUPS[group]
            work = {name(layout): root / name(layout).replace(" ", "") for layout in layouts}
            in_turn([_job(work[name(layout)], shards, placement(**layout, micro_batch=1)) for layout in layouts])
            done[group] = work
        return done[group]

    return run


def _job(work: Path, shards: Path, layout: TrainPlacement) -> Job:
    return job(work / "work", shards, layout, training=SHORT, model=TIED)


@pytest.mark.parametrize(("group", "layout"), TABLE)
def test_training_is_that_of_one_rank(group: str, layout: dict[str, int], trained: Run) -> None:
    (one,), work = trained("one").values(), trained(group)[name(layout)]
    rows, expected = (trace(folder / "work" / "metrics.jsonl") for folder in (work, one))
    assert len(rows) == len(expected) == SHORT.steps
    for row, other in zip(rows, expected, strict=True):
        for exact in ("masked_fraction", "tokens", "positions_by_noise", "lr"):
            assert row[exact] == other[exact]
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        for value, theirs in zip(row["loss_by_noise"], other["loss_by_noise"], strict=True):
            assert value == (None if theirs is None else pytest.approx(theirs, rel=1e-5))
    weights, others = (export_weights(published(folder / "work" / FOLDER)[-1], TIED) for folder in (work, one))
    for tensor, whole in others.items():
        moved = torch.linalg.vector_norm(whole - initial_tensor(TIED, tensor, SHORT.seed))
        off = torch.linalg.vector_norm(weights[tensor] - whole)
        assert moved > 1e-3 and off < 1e-3 * moved, f"{tensor}: {off:.2g} off after {moved:.2g}"
