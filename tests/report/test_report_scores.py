"""The distribution of quality scores, where a run has a classifier."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from illada.artifacts import StageIdentity, Store
from illada.report.page import render
from illada.report.scores import distributions, thresholds
from illada.report.view import RunView, StageView

FUNNEL = [{"step": "quality", "documents_in": 11, "documents_out": 3, "bytes_in": 9, "bytes_out": 3}]


def run(root: Path, statistics: dict[str, Any]) -> RunView:
    store = Store(root)
    with store.attempt(StageIdentity(stage="quality", version=1, config={}, inputs={})) as attempt:
        (attempt.output / "data.bin").touch()
        artifact = store.publish(attempt, {"funnel": FUNNEL, **statistics}, {}, 0.0)
    stages = [StageView(name="quality", state="done", seconds=1.0, artifact=artifact)]
    return RunView(run_id="r", state="finished", config_yaml="name: r", created=None, stages=stages)


def test_scores_are_drawn_by_language_and_source(tmp_path: Path) -> None:
    languages = {"de": {"scores": [1, 0, 0, 0], "kept": 0}, "en": {"scores": [5, 0, 2, 3], "kept": 3}}
    sources = {"<b>web": {"scores": [6, 0, 2, 3], "kept": 3}}
    view = run(tmp_path, {"scores": {"languages": languages, "sources": sources}, "thresholds": {"": 0.75, "en": 0.5}})
    rows = distributions(view)
    assert [(row.kind, row.name, row.scored, row.kept) for row in rows] == [
        ("language", "en", 10, 3), ("language", "de", 1, 0), ("source", "<b>web", 11, 3),
    ]  # fmt: skip
    bars = re.findall(r"M([\d.]+) 28V([\d.]+)", rows[0].histogram)
    assert [(float(x), float(y)) for x, y in bars] == [(25, 2), (125, 17.6), (175, 12.4)]
    assert thresholds(view) == [("", 0.75), ("en", 0.5)]
    page = render(view)
    assert "0.750000, 0.500000 (en)." in page
    assert "&lt;b&gt;web" in page and "<b>web" not in page


def test_odd_records_and_none_draw_nothing(tmp_path: Path) -> None:
    assert distributions(RunView(run_id="r", state="created", config_yaml="", created=None, stages=[])) == []
    assert distributions(run(tmp_path, {"scores": {"languages": [], "sources": {"a": 3, "b": {}}}})) == []
    assert "Quality scores" not in render(run(tmp_path / "other", {"scores": None}))
