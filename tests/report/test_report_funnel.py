"""The funnel's drawing, its samples of rejected documents, and the stages that only some runs have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import HOSTILE, finished_run

from illada.artifacts import Artifact, StageIdentity, Store
from illada.report import facts
from illada.report.chain import expected_parents, with_pending
from illada.report.facts import FunnelStep
from illada.report.flow import draw_flow, edges
from illada.report.plain import plain
from illada.report.rejected import rejections
from illada.report.sankey import draw_sankey
from illada.report.view import RunView, StageView


def step(name: str, read: int, dropped: dict[str, int], stage: str = "curate") -> FunnelStep:
    return FunnelStep(
        stage=stage,
        step=name,
        documents_in=read,
        documents_out=read - sum(dropped.values()),
        bytes_in=None,
        bytes_out=None,
        dropped=sorted(dropped.items(), key=lambda row: (-row[1], row[0])),
        failed=(),
    )


def heights(svg: str, style: str) -> list[float]:
    return [float(found) for found in re.findall(rf'<rect class="{style}"[^>]*height="([\d.]+)"', svg)]


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(20, 60), max_size=10), min_size=1, max_size=6)
)
def test_what_flows_out_of_a_step_is_what_flows_into_the_next(losses: list[dict[str, int]]) -> None:
    steps, left = [], 4000
    for index, dropped in enumerate(losses):
        steps.append(step(f"step {index}", left, dropped))
        left = int(steps[-1].documents_out)
    svg = str(draw_sankey(steps))
    scale = 210 / 4000
    shown = [one for one in steps if one.dropped] or steps[:1]
    into = [one.documents_in * scale for one in shown]
    assert heights(svg, "node") == pytest.approx([*into, left * scale], abs=0.06)
    assert heights(svg, "band") == pytest.approx([one.documents_out * scale for one in shown], abs=0.06)
    flows = [float(found) for found in re.findall(r'<g class="lost">.*?<rect[^>]*height="([\d.]+)"', svg, re.DOTALL)]
    assert sum(flows) == pytest.approx((4000 - left) * scale, abs=0.1 * max(1, len(flows)))


def test_many_reasons_share_a_flow_and_texts_are_escaped() -> None:
    dropped = {f"reason_{n}": 10 + n for n in range(9)} | {HOSTILE: 500}
    svg = str(draw_sankey([step(HOSTILE, 1000, dropped)]))
    assert svg.count('<g class="lost">') == 5
    assert "6 more" in svg and "reason_0: 10" in svg
    assert "<script" not in svg and "<img" not in svg
    assert draw_sankey([]) is None
    assert draw_sankey([step("read", 0, {})]) is None


def artifact(root: Path, stage: str, tables: Sequence[Sequence[dict[str, Any]]]) -> Artifact:
    store = Store(root / "store")
    with store.attempt(StageIdentity(stage=stage, version=1, config={}, inputs={})) as attempt:
        (attempt.output / "rejected").mkdir()
        for number, rows in enumerate(tables):
            pq.write_table(pa.Table.from_pylist(list(rows)), attempt.output / "rejected" / f"{number:05d}.parquet")
        return store.publish(attempt, {}, {}, 0.0)


def rows(count: int, reason: str, step: str = "c4") -> list[dict[str, Any]]:
    common = {"url": "https://x/\x1b", "source": "web", "language": "en", "step": step, "reason": reason}
    return [{"id": f"{n:032x}", "text": f"{n} " * 900, **common} for n in reversed(range(count))]


def test_samples_are_the_lowest_ids_of_each_reason_whatever_the_order(tmp_path: Path) -> None:
    made = artifact(tmp_path, "curate", [rows(9, "one"), rows(2, "two"), rows(4, "one")])
    view = RunView(
        run_id="x", state="finished", config_yaml="", created=None,
        stages=[StageView(name="curate", state="done", artifact=made)],
    )  # fmt: skip
    groups, notes = rejections(view)
    assert not notes
    assert [(group.step, group.reason) for group in groups] == [("c4", "one"), ("c4", "two")]
    assert [row.id for row in groups[0].samples] == [f"{n:032x}" for n in (0, 1, 2)]
    assert [len(row.text) for row in groups[1].samples] == [601, 601]
    assert groups[0].samples[0].url == "https://x/\ufffd"
    assert plain("a\u202eb\tc\n") == "a\ufffdb\tc\n"
    made.path("rejected/00001.parquet").write_bytes(b"no table")
    _, notes = rejections(view)
    assert len(notes) == 1 and "cannot be read" in notes[0]


def test_domains_and_what_was_given_up(tmp_path: Path) -> None:
    view = finished_run(tmp_path)
    shown, others = facts.domains(view, 3)
    assert [row.name for row in shown] == ["gnu.org", "debian.org", "apache.org"]
    table = facts.pick(view.artifact("curate"), "domains", "domains")
    assert others is not None
    assert sum(row.read for row in shown) + others.read == sum(row["read"] for row in table.values()) + 77
    assert facts.quarantined(view) == [("warc/00017.warc.gz", "killed by a signal")]


CONFIG = """\
data:
  sources: [{kind: warc, name: web, paths: [x]}]
  quality: {keep: 0.1}
  substrings: {length: 50}
"""


def test_configured_stages_are_expected_in_their_place() -> None:
    empty = RunView(run_id="x", state="created", config_yaml=CONFIG, created=None, stages=[])
    view = with_pending(empty)
    names = [stage.name for stage in view.stages]
    assert names[:7] == ["acquire-web", "curate", "quality-model", "quality", "deduplicate", "substrings", "tokenizer"]
    expected = {(source, target) for source, target, _ in edges(view)}
    assert set(itertools.pairwise(names[:7])) <= expected
    assert draw_flow(view).count("<rect") == len(names)
    plainer = replace(empty, config_yaml=CONFIG.split("  quality")[0])
    without = [stage.name for stage in with_pending(plainer).stages]
    assert without[:4] == ["acquire-web", "curate", "deduplicate", "tokenizer"]
    assert expected_parents("deduplicate", without) == ["curate"]
    reached = [StageView(name="decontaminate-documents", state="running")]
    cut = [stage.name for stage in with_pending(replace(plainer, stages=reached)).stages]
    assert expected_parents("tokenizer", cut) == ["decontaminate-documents"]
    assert expected_parents("decontaminate-documents", cut) == ["deduplicate"]
