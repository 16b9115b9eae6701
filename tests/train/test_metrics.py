"""Rows of metrics against their definition, and the log's behaviour at a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from illada.train.metrics import SUMS, MetricsLog, add_micro_batch, last_row, read_rows, step_row


def row(sums: torch.Tensor) -> dict[str, object]:
    return step_row(sums.tolist(), step=3, epoch=0, lr=0.1, grad_norm=2.0, tokens=96, seconds=0.5)


def test_figures_equal_their_definition() -> None:
    generator = np.random.default_rng(0)
    nats, weight = generator.random(50).astype(np.float32), (1 / generator.random(50)).astype(np.float32)
    level = generator.choice([0.0, 0.05, 0.1, 0.55, 0.999, 1.0], 50).astype(np.float32)
    halves = torch.zeros(2, SUMS, dtype=torch.float64)  # as two data-parallel ranks would sum
    for half, part in zip(halves, (slice(0, 20), slice(20, 50)), strict=True):
        add_micro_batch(half, *(torch.from_numpy(array[part]) for array in (nats, weight, level)), tokens=64)
    result = row(halves.sum(0))
    assert result["loss"] == pytest.approx((nats.astype(float) * weight).sum() / 128)
    assert result["masked_fraction"] == 50 / 128
    assert result["tokens_per_second"] == 256
    tenth = np.minimum(np.floor(level.astype(float) * 10 + 1e-6).astype(int), 9)
    for bucket, value in enumerate(result["by_noise"]):  # type: ignore[arg-type]
        here = nats[tenth == bucket]
        assert value == (pytest.approx(here.mean()) if len(here) else None)


def test_nothing_masked() -> None:
    sums = torch.zeros(SUMS, dtype=torch.float64)
    add_micro_batch(sums, *(torch.empty(0) for _ in range(3)), tokens=64)
    result = row(sums)
    assert (result["loss"], result["masked_fraction"], result["by_noise"]) == (0, 0, [None] * 10)


def test_not_finite_is_marked_and_written_as_null() -> None:
    sums = torch.zeros(SUMS, dtype=torch.float64)
    add_micro_batch(sums, torch.tensor([float("nan")]), torch.ones(1), torch.ones(1), tokens=64)
    result = row(sums)
    assert result["skipped"] is True
    assert result["loss"] is None and result["by_noise"][9] is None  # type: ignore[index]


def test_log_drops_what_was_undone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in range(1, 6):
        log.append({"step": step})
        assert last_row(path) == {"step": step}
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    assert last_row(path) == {"step": 5}
    MetricsLog(path, 3).append({"step": 4, "again": True})
    assert read_rows(path) == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


def test_no_file_yet(tmp_path: Path) -> None:
    assert last_row(tmp_path / "none") is None
    assert read_rows(tmp_path / "none") == []
