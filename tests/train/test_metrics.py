"""Rows of metrics against their definition, and the log's behaviour at a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from illada.artifacts import Folder
from illada.train.metrics import (
    METRICS,
    SUMS,
    MetricsLog,
    add_micro_batch,
    drop_rows,
    mean_loss_by_noise,
    read_rows,
    step_row,
)


def row(sums: torch.Tensor) -> dict[str, object]:
    return step_row(
        sums.tolist(), step=3, epoch=0, lr=0.1, grad_norm=2.0, tokens=96, seconds=0.5, compute={}, skipped=None
    )


def test_figures_equal_their_definition() -> None:
    generator = np.random.default_rng(0)
    mask = generator.random((4, 32)) < 0.4
    level = generator.choice([0.0, 0.05, 0.1, 0.55, 0.999, 1.0], (4, 32)).astype(np.float32)
    weight = np.where(mask, 1 / generator.random((4, 32)), 0).astype(np.float32)
    nats = np.where(mask, generator.random((4, 32)), 0).astype(np.float32)
    halves = torch.zeros(2, SUMS + 1, dtype=torch.float64)  # as two data-parallel ranks would sum
    for half, part in zip(halves, (slice(0, 1), slice(1, 4)), strict=True):
        arrays = (nats[part][mask[part]], weight[part], level[part], mask[part])
        add_micro_batch(half, *(torch.from_numpy(array) for array in arrays), window=32)
    sums = halves.sum(0)
    assert sums[SUMS] == 0
    result = row(sums[:SUMS])
    assert result["loss"] == pytest.approx((nats.astype(float) * weight).sum() / 128)
    assert result["masked_fraction"] == mask.sum() / 128
    assert result["tokens_per_second"] == 256
    tenth = np.minimum(np.floor(level.astype(float) * 10 + 1e-6).astype(int), 9)
    for bucket in range(10):
        here = tenth == bucket
        found = [result[name][bucket] for name in ("by_noise", "loss_by_noise", "positions_by_noise")]  # type: ignore[index]
        weighted = nats[here].astype(float) * weight[here]
        expected = (
            [pytest.approx(nats[here & mask].mean()), pytest.approx(weighted.mean()), here.sum()]
            if here.any()
            else [None, None, 0]
        )
        assert found == expected


def test_loss_is_the_mean_over_noise_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(3, 8, generator=generator)
    mask = torch.rand(3, 8, generator=generator) < level
    sums = torch.zeros(SUMS, dtype=torch.float64)
    add_micro_batch(sums, torch.rand(int(mask.sum()), generator=generator), mask / level, level, mask, 8)
    result = row(sums)
    parts = zip(result["loss_by_noise"], result["positions_by_noise"], strict=True)  # type: ignore[call-overload]
    assert sum((loss or 0.0) * positions for loss, positions in parts) / 24 == pytest.approx(result["loss"])


def test_a_short_row_counts_for_a_window() -> None:
    sums = torch.zeros(SUMS, dtype=torch.float64)
    weight, level, mask = torch.tensor([[6.0, 0.0, 3.0]]), torch.full((1, 3), 0.25), torch.tensor([[True, False, True]])
    add_micro_batch(sums, torch.tensor([2.0, 4.0]), weight, level, mask, 10)
    result = row(sums)
    assert result["loss"] == pytest.approx(2.4) and result["masked_fraction"] == 0.2
    assert result["loss_by_noise"] == [None, None, pytest.approx(2.4), *[None] * 7]
    assert result["positions_by_noise"] == [0, 0, 10, *[0] * 7]


def test_loss_by_noise_of_several_rows() -> None:
    rows = [
        {"loss_by_noise": [2.0, 3.0] + [None] * 8, "positions_by_noise": [10, 2] + [0] * 8},
        {"loss_by_noise": [None, 6.0] + [None] * 8, "positions_by_noise": [0, 4] + [0] * 8},
    ]
    assert mean_loss_by_noise(rows) == [2.0, 5.0] + [None] * 8


def test_nothing_masked() -> None:
    sums = torch.zeros(SUMS, dtype=torch.float64)
    add_micro_batch(
        sums, torch.empty(0), *(torch.zeros(1, 64) for _ in range(2)), torch.zeros(1, 64, dtype=torch.bool), 64
    )
    result = row(sums)
    assert (result["loss"], result["masked_fraction"], result["by_noise"]) == (0, 0, [None] * 10)
    assert result["loss_by_noise"] == [0] + [None] * 9


def test_not_finite_is_written_as_null() -> None:
    sums = torch.zeros(SUMS, dtype=torch.float64)
    add_micro_batch(
        sums, torch.tensor([float("nan")]), *(torch.ones(1, 1) for _ in range(2)), torch.tensor([[True]]), 1
    )
    result = row(sums)
    assert result["loss"] is None and result["by_noise"][9] is None  # type: ignore[index]


@pytest.fixture(params=["files", "s3"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty work folder."""
    return Folder.at(request.getfixturevalue("s3_url") + "/work" if request.param == "s3" else tmp_path)


def test_log_drops_what_was_undone(work: Folder) -> None:
    log = MetricsLog(work, 0)
    for step in range(1, 6):
        log.append({"step": step})
        if work.path is not None:
            assert read_rows(work, METRICS)[-1] == {"step": step}, "at once"
    log.sync()
    if work.path is not None:
        with (work.path / METRICS).open("a") as file:
            file.write('{"step": 6, "lo')  # killed in the middle of a line
    assert read_rows(work, METRICS) == [{"step": step} for step in range(1, 6)]
    again = MetricsLog(work, 3)
    again.append({"step": 4, "again": True})
    again.sync()
    assert read_rows(work, METRICS) == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


def test_rows_in_an_object_store_come_in_parts(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Folder.at(s3_url)
    monkeypatch.setattr("illada.train.metrics._PART_SECONDS", 0.0)
    log = MetricsLog(work, 0)
    for step in range(1, 4):
        log.append({"step": step})
        assert read_rows(work, METRICS)[-1] == {"step": step}
    assert len(work.names()) == 1, "written again and again"
    log.sync()
    monkeypatch.setattr("illada.train.metrics._PART_BYTES", 20)
    for step in range(4, 8):
        log.append({"step": step})
    assert [row["step"] for row in read_rows(work, METRICS)] == list(range(1, 8))
    assert len(work.names()) == 3, "one for the checkpoint, one for each so many bytes"


def test_a_rewritten_log_that_was_not_cleaned_up_counts_once(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Folder.at(s3_url)
    log = MetricsLog(work, 0)
    for step in range(1, 6):
        log.append({"step": step})
    log.sync()
    monkeypatch.setattr(type(work), "delete", lambda self, name: None)  # killed before that
    drop_rows(work, 3)
    assert [row["step"] for row in read_rows(work, METRICS)] == [1, 2, 3]


def test_no_file_yet(work: Folder) -> None:
    assert read_rows(work, METRICS) == []
