"""The pieces below the page: bins and smoothing of long records, ticks, gaps in curves, units."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from pathlib import Path

import pytest

from illada.artifacts import StageIdentity, Store
from illada.report import units
from illada.report.charts import Line, line_chart, span, ticks
from illada.report.metrics import BINS, read_training, smooth
from illada.report.training import draw_training


def test_long_record_is_averaged_into_bins(tmp_path: Path) -> None:
    steps = 5 * BINS + 123
    artifact = _trained(
        tmp_path, [{"step": step, "loss": float(step), "by_noise": [1.0] * 10} for step in range(1, steps + 1)]
    )
    points = read_training(artifact).points
    assert len(points) == BINS
    assert points[0].first == 1 and points[-1].last == steps
    for point, following in itertools.pairwise(points):
        assert following.first == point.last + 1
    for point in points:
        assert point.figures["loss"] == pytest.approx((point.first + point.last) / 2)
    assert len(draw_training(artifact, 4096).loss) < 60_000


def test_short_record_is_kept_step_by_step_and_gaps_stay_gaps(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 4.0, "by_noise": [None] + [2.0] * 9},
        {"step": 2, "loss": None, "skipped": True, "by_noise": []},
    ]
    record = read_training(_trained(tmp_path, rows))
    assert [point.figures["loss"] for point in record.points] == [4.0, None]
    assert record.points[0].by_noise == (None, *[2.0] * 9) and record.points[1].by_noise == (None,) * 10
    assert record.skipped == 1
    assert draw_training(_trained(tmp_path / "again", rows), None).skipped == 1


def test_loss_by_noise_is_averaged_over_positions(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss_by_noise": [float(step)] + [None] * 9, "positions_by_noise": [step % 3] + [0] * 9}
        for step in range(1, 2 * BINS + 1)
    ]
    artifact = _trained(tmp_path, rows)
    for point in read_training(artifact).points:
        steps = range(int(point.first), int(point.last) + 1)
        expected = sum(step * (step % 3) for step in steps) / sum(step % 3 for step in steps)
        assert point.loss_by_noise == (pytest.approx(expected), *[None] * 9)
    assert "nats per token" in draw_training(artifact, None).small[0]


def test_empty_record_draws_empty_charts(tmp_path: Path) -> None:
    charts = draw_training(_trained(tmp_path, []), 4096)
    assert charts.loss.startswith("<svg") and charts.checkpoints == 0


def test_smooth_is_the_mean_of_what_is_there() -> None:
    values = [1.0, None, 4.0, 2.0, None, None, None, 9.0]
    result = smooth(values, 3)
    for index, mean in enumerate(result):
        near = [value for value in values[max(0, index - 1) : index + 2] if value is not None]
        assert mean == (pytest.approx(statistics.fmean(near)) if near else None)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (4.57, 8.31), (0, 3e-4), (1, 300), (-2.0, 13.0), (11_000, 13_500)]
)
def test_ticks_are_round_inside_and_even(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 3 <= len(found) <= 8
    assert found[0] >= low - 1e-9 * abs(low) and found[-1] <= high * (1 + 1e-9)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))
    assert f"{steps[0]:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_span_leaves_spikes_out_and_never_is_empty() -> None:
    line = Line(points=[(i, 1.0 + i / 100) for i in range(100)] + [(100, 500.0)], label="", style="raw")
    assert span([line], 0.01)[1] < 2
    low, high = span([Line(points=[(1, 3.0)], label="", style="raw")])
    assert low < 3.0 < high
    assert span([]) == (0.0, 1.0)


def test_gap_lifts_the_pen() -> None:
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, None), (4.0, 3.0)]
    chart = line_chart(
        name="x",
        title="",
        unit="",
        lines=[Line(points=points, label="", style="raw")],
        y_range=(1.0, 3.0),
        y_format=str,
    )
    path = re.search(r'class="curve raw" d="([^"]*)"', chart)
    assert path is not None and path[1].count("M") == 2 and path[1].count("L") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.count(12_345), "12 345"),
        (units.short_count(7_615_000_000), "7.62 B"),
        (units.short_count(999_600), "1.00 M"),
        (units.short_count(9_999), "9 999"),
        (units.size(12_340_000), "12.3 MB"),
        (units.size(12), "12 B"),
        (units.duration(0.44), "0.4 s"),
        (units.duration(59.7), "1 min 0 s"),
        (units.duration(7_260), "2 h 1 min"),
        (units.percent(1, 3000), "< 0.1 %"),
        (units.percent(3, 3), "100 %"),
        (units.percent(3, 0), "–"),
        (units.decimal(-0.25, 2), "−0.25"),
        (units.moment(0), "1970-01-01 00:00 UTC"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text.replace("\u202f", " ") == expected


def _trained(root: Path, rows: list[dict[str, object]]):  # type: ignore[no-untyped-def]
    store = Store(root)
    with store.attempt(StageIdentity(stage="pretrain", version=1, config={}, inputs={})) as attempt:
        (attempt.output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (attempt.output / "events.jsonl").write_text("")
        return store.publish(attempt, {}, {}, 0.0)
