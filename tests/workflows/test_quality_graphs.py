"""The quality classifier in whole graphs: in a run from sources, and in a corpus that grows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chain import write_config
from refresh_bench import configuration, execute_graph, report, run_refresh, write_crawl, write_lines, write_listing

from illada.artifacts import Artifact, Store
from illada.config import ConfigError, WorkflowConfig, dump_config
from illada.data.corpora import open_snapshot
from illada.durable.engine import StageRunner
from illada.durable.errors import StageFailed
from pipelines.classifier import Classifier, as_line
from pipelines.documents import document_files, read_documents
from pipelines.quality import ALL
from pipelines.quality_model import MODEL
from workflows.refresh import WORKFLOW
from workflows.registry import load_workflow, parse_workflow, workflow_of
from workflows.texts import texts_from_sources


def scores(artifact: Artifact) -> dict[str, float]:
    return {d.id: d.quality for file in document_files(artifact) for d in read_documents(file.path())}


@pytest.mark.usefixtures("cluster")
def test_the_better_half_of_a_run(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    rows = [json.dumps({"text": report(number)}) for number in range(150)]
    (tmp_path / "worse.jsonl").write_text("\n".join(rows))
    quality = {
        "positive": [{"from_source": "prose"}], "negative": [{"paths": [str(tmp_path / "worse.jsonl")]}],
        "dim": 8, "buckets": 2000, "keep": 0.5,
    }  # fmt: skip
    config = load_workflow(path, [f"data.quality={json.dumps(quality)}", "data.substrings.length=2000"])
    assert isinstance(config, WorkflowConfig)
    workflow_of(config).check(config)
    found: list[Artifact] = []

    def graph(runner: StageRunner) -> dict[str, Any]:
        found.extend(texts_from_sources(runner, config).chain)
        return {}

    execute_graph(config, tmp_path / "runs.db", "half", graph)
    names = [
        "acquire-prose",
        "acquire-code",
        "curate",
        "quality-model",
        "quality",
        "deduplicate",
        "substrings",
        "tokenizer",
        "tokenize",
    ]
    assert [artifact.stage for artifact in found] == names
    assert [name for name in workflow_of(config).stage_configs(config) if name in names] == names
    curated, selected = found[2], found[4]
    (row,) = selected.statistics["funnel"]
    prose, code = (curated.statistics["sources"][name]["documents"] for name in ("prose", "code"))
    assert (row["documents_in"], row["dropped"]) == (prose + code, {"low_quality": prose // 2})
    assert selected.statistics["sources"]["code"]["documents"] == code
    assert found[3].statistics["held_out"]["auc"] > 0.9
    assert found[7].record["inputs"] == {"documents": found[6].fingerprint}, "tokens of what was left last"


@pytest.mark.usefixtures("cluster")
def test_all_snapshots_are_judged_alike(tmp_path: Path) -> None:
    write_lines(tmp_path / "lines" / "a.jsonl", range(40))
    write_crawl(tmp_path / "crawl" / "one.warc.gz", range(100, 110))
    write_listing(tmp_path / "warc.paths.gz", ["one.warc.gz"])
    for label, numbers in (("good", range(1000, 1120)), ("bad", range(2000, 2120))):
        rows = [json.dumps({"text": report(number) + f" {label}" * 10}) for number in numbers]
        path = tmp_path / "examples" / f"{label}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(rows))
    quality: dict[str, Any] = {
        "positive": [{"paths": [str(tmp_path / "examples" / "good.jsonl")]}],
        "negative": [{"paths": [str(tmp_path / "examples" / "bad.jsonl")]}],
        "dim": 8, "buckets": 2000, "keep": 0.5,
    }  # fmt: skip
    config = configuration(tmp_path, quality=quality)
    assert parse_workflow(dump_config(config)) == config
    WORKFLOW.check(config)
    unknown = configuration(tmp_path, quality={**quality, "negative": [{"from_source": "nowhere"}]})
    with pytest.raises(ConfigError, match="from_source 'nowhere' is none of the sources lines, crawl"):
        WORKFLOW.check(unknown)

    assert run_refresh(config, tmp_path / "runs.db")["snapshot"] == 1
    write_lines(tmp_path / "lines" / "b.jsonl", range(200, 220))
    shutil.rmtree(tmp_path / "examples")
    WORKFLOW.check(config)
    assert run_refresh(config, tmp_path / "runs.db")["snapshot"] == 2

    store = Store(tmp_path / "store")
    one, two = (open_snapshot(store, "web", number) for number in (1, 2))
    assert two.built("quality-model") == one.built("quality-model")
    threshold = one.built("quality").statistics["thresholds"][ALL]
    assert two.built("quality").statistics["thresholds"] == {ALL: threshold}
    classifier = Classifier(one.built("quality-model").path(MODEL))
    for snapshot, count in ((one, 50), (two, 20)):
        curated = [d for file in document_files(snapshot.built("curate")) for d in read_documents(file.path())]
        expected = {d.id: score for d in curated if (score := classifier.score(as_line(d.text))) >= threshold}
        assert len(curated) == count
        assert scores(snapshot.built("quality")) == expected
        assert scores(snapshot.built("deduplicate")) == expected, "later stages know the score"
        assert snapshot.totals["train"]["documents"] > 0
    assert len(scores(one.built("quality"))) == 25

    chain = [artifact for snapshot in two.history() for artifact in snapshot.artifacts()]
    assert [a.stage for a in chain].count("quality-model") == 1 and [a.stage for a in chain].count("quality") == 2
    known = {digest for artifact in chain for digest in (artifact.fingerprint, artifact.content)}
    assert {digest for a in chain for digest in a.record["inputs"].values()} <= known

    write_lines(tmp_path / "lines" / "c.jsonl", range(300, 305))
    for change, fault in (
        ({"quality": {**quality, "keep": 0.2}}, r"quality\.keep is 0\.5 there, 0\.2 here"),
        ({}, r"quality\.keep is 0\.5 there, None here"),
    ):
        with pytest.raises(StageFailed, match=fault):
            run_refresh(configuration(tmp_path, **change), tmp_path / "runs.db", f"changed-{len(change)}")
