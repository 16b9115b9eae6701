"""The page as a parser sees it: whole, self-contained, escaped, and honest about what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import CONFIG, HOSTILE, finished_run

from illada.artifacts import Artifact
from illada.report.flow import edges
from illada.report.page import render, write_report
from illada.report.summary import summarise
from illada.report.view import RunView

VOID = {"meta", "link", "br", "img", "hr", "input"}
ACTIVE = {"script", "img", "iframe", "object", "embed", "form", "base", "video", "audio", "source", "use", "image"}
RESOURCES = ("src", "srcset", "data", "action", "background", "poster", "xlink:href")


class Page(HTMLParser):
    """Collects ids, links, active elements and text, and checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunView, str]:
    view = finished_run(tmp_path_factory.mktemp("whole"))
    return view, render(view)


def check_self_contained(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not page.tags & ACTIVE
    assert not any(name in RESOURCES or name.startswith("on") for name, _ in page.attributes)
    for link in page.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in page.ids), link
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None and not re.search(r"@import|url\(", style[1])
    for reference in re.findall(r"url\((#[^)]*)\)", html):
        assert reference[1:] in page.ids
    return page


def test_finished_run_shows_everything(whole: tuple[RunView, str]) -> None:
    view, html = whole
    page = check_self_contained(html)
    assert html.startswith("<!doctype html>") and len(html.encode()) < 2_000_000
    for expected in (
        "illada-demo",
        "3 876 51.7 % of 7 503 read",
        "3.41 M and 71.9 k held out",
        "1.31 M vocabulary 4 096",
        "1.483 → 1.471 ± 0.009 before SFT, ± 0.009 after SFT",
        "not wanted 1 422",
        "failed: truncated record 3",
        "2 damaged records, skipped and counted",
        "gzip stream ends early",
        "python",
        "3 checkpoints, 1 restart",
        "4.9120 ± 0.0312",
        "How do I install a package?",
        "licence: various",
        "from curate",
        "Mixture: planned and achieved",
        "code python 50.0 % 614 400 614 400 400 000 1.54",
        "bytes a token",
        "3.31",
    ):
        assert expected in page.text, expected
    assert "Pending" not in page.text
    for stage in view.stages:
        assert stage.artifact is not None
        assert f"artifact-{stage.artifact.fingerprint[:12]}" in page.ids
        assert stage.artifact.fingerprint in page.text and stage.artifact.content in page.text
    assert f"{5:064x}" in page.text  # a source file's digest


def test_charts_carry_curves_markers_and_tooltips(whole: tuple[RunView, str]) -> None:
    html = whole[1]
    assert html.count('class="curve raw"') == 6 and html.count('class="curve mean"') == 8
    assert all(html.count(f'class="curve n{level}"') == 4 for level in range(10))
    assert html.count('class="marker checkpoint"') == 4 * 3 + 4 * 3
    assert html.count('class="marker restart"') == 4
    assert "went on from step 100: rank 2 died (signal 9)" in html
    assert re.search(r"<title>step 101\nloss \d", html)
    assert "a uniform guess, ln 4\u202f096 = 8.32" in html


def test_page_depends_on_the_run_alone(whole: tuple[RunView, str]) -> None:
    view, html = whole
    assert render(view) == html


def test_texts_of_others_are_never_markup(tmp_path: Path) -> None:
    html = render(finished_run(tmp_path, hostile=True))
    page = check_self_contained(html)
    assert "<script" not in html and "onerror=alert(1)>" not in html
    assert page.text.count("<script>alert('x')</script>") > 10


def test_hostile_error_and_configuration_are_text(tmp_path: Path) -> None:
    view = finished_run(tmp_path, hostile=True, upto="curate")
    page = check_self_contained(render(view))
    assert f"a worker died: {HOSTILE}" in page.text


@pytest.mark.parametrize("stage", ["curate", "tokenizer", "pretrain", "evaluate-base", "sft", "release"])
def test_run_that_stopped_shows_the_rest_as_pending(tmp_path: Path, stage: str) -> None:
    view = finished_run(tmp_path, upto=stage)
    page = check_self_contained(render(view))
    assert "no space left on the device" in page.text
    assert "release" in page.text and f"{stage} failed:" in page.text
    assert ("Pending" in page.text) == (stage != "release")


def test_run_without_any_stage_is_a_page(tmp_path: Path) -> None:
    view = RunView(run_id="new", state="created", config_yaml=CONFIG, created=None, stages=[])
    write_report(view, tmp_path / "deep" / "report.html")
    page = check_self_contained((tmp_path / "deep" / "report.html").read_text(encoding="utf-8"))
    assert (
        "acquire-web" in page.text and "acquire-code" in page.text and "Pending: nothing has been curated" in page.text
    )


def test_lost_files_are_named_not_fatal(tmp_path: Path) -> None:
    view = finished_run(tmp_path)
    for stage, name in (("pretrain", "metrics.jsonl"), ("sft", "events.jsonl"), ("acquire-web", "inventory.json")):
        artifact = view.artifact(stage)
        assert artifact is not None
        artifact.path(name).unlink()
    page = check_self_contained(render(view))
    for note in ("pretrain: its metrics", "sft: its events", "acquire-web: its inventory"):
        assert f"{note} cannot be read" in page.text


def test_page_of_a_huge_run_stays_small(tmp_path: Path) -> None:
    view = finished_run(tmp_path)
    stages = [replace(stage, artifact=_swollen(stage.artifact)) for stage in view.stages]
    html = render(replace(view, stages=stages))
    page = check_self_contained(html)
    assert len(html.encode()) < 2_000_000
    assert "1 500 checkpoints, 400 restarts" in page.text
    assert "98 765 damaged records" in page.text
    assert "And 89 850 more files" in page.text
    assert "the rest is in record.json" in page.text


def _swollen(artifact: Artifact | None) -> Artifact:
    """The same artifact with the records a year on a thousand machines would leave."""
    assert artifact is not None
    record = json.loads(json.dumps(artifact.record))
    if artifact.stage == "acquire-web":
        content = json.loads(artifact.path("inventory.json").read_text())
        content["files"] = [
            {**content["files"][0], "path": f"{i}.warc.gz", "made_from": ["x" * 80] * 9} for i in range(90_000)
        ]
        artifact.path("inventory.json").write_text(json.dumps(content))
        record["config"]["inventory"] = content["files"][:5000]
    if artifact.stage == "curate":
        record["statistics"]["damaged"] = [{"file": "f" * 500, "record": "r" * 9000, "error": "e" * 9000}] * 1000
        record["statistics"]["funnel"][0]["failed"] = {"damaged": 98_765}
    if artifact.stage in ("pretrain", "sft"):
        events = [{"event": "start", "step": 0}]
        events += [{"event": "checkpoint", "step": i, "bytes": 1, "seconds": 1.0} for i in range(1500)]
        events += [
            {"event": kind, "step": 7, "reason": "r" * 3000} for _ in range(400) for kind in ("restart", "start")
        ]
        artifact.path("events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        row = artifact.path("metrics.jsonl").read_text().splitlines()[0]
        artifact.path("metrics.jsonl").write_text(
            "".join(row.replace('"step": 1', f'"step": {i}') + "\n" for i in range(9000))
        )
    return replace(artifact, record=record)


def test_edges_are_recorded_inputs_without_what_they_imply(whole: tuple[RunView, str]) -> None:
    found = {(source, target) for source, target, recorded in edges(whole[0]) if recorded}
    assert ("acquire-web", "curate") in found  # by content, not by fingerprint
    assert ("tokenizer", "tokenize") in found and ("deduplicate", "tokenize") not in found
    assert {("pairs", "sft"), ("pretrain", "sft"), ("evaluate-base", "gates"), ("evaluate-sft", "gates")} <= found
    assert ("gates", "release") in found and ("evaluate-sft", "release") not in found
    assert ("tokenize", "release") not in found


def test_summary_of_a_finished_run(whole: tuple[RunView, str]) -> None:
    summary = summarise(whole[0], release="out/release", report="out/report.html")
    assert summary["run"] == "demo" and summary["release"] == "out/release" and summary["report"] == "out/report.html"
    assert summary["seconds"]["pretrain"] == 96.0 and summary["seconds"]["acquire-web"] == 0.1
    assert [row["planned"] for row in summary["mixture"]] == [614_400, 614_656]
    assert summary["held_out"]["before_sft"]["nll_per_byte"] == 1.483
    assert summary["held_out"]["after_sft"]["se_per_token"] == 0.0312
    assert set(summary["held_out"]["after_sft"]) >= {"nll_per_token", "se_per_byte", "bits_per_byte", "windows"}
    outcomes = {row["gate"]: row["outcome"] for row in summary["gates"]}
    assert outcomes == {"evaluation": "passed", "licences": "waived"}
    assert summary["samples"][1] == {
        "prompt": "Write the signature of the function: Return the sum of two numbers.",
        "text": "def sum(self, a, b)",
    }
    assert (summary["tokens"], summary["parameters"], summary["documents"]) == (3_412_551, 1_312_896, 3876)


def test_summary_of_a_run_that_stopped(tmp_path: Path) -> None:
    summary = summarise(finished_run(tmp_path, upto="sft"), release=None, report=None)
    assert summary["state"] == "failed" and summary["release"] is None
    assert set(summary["held_out"]) == {"before_sft"} and summary["gates"] is None
    assert summary["samples"][0]["text"].startswith("To install a package")
