"""The quality classifier and its stages: what it learns, which share it keeps, and that nothing else decides."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_bench import Bench, Interrupt

from illada.artifacts import Artifact, ArtifactError, NoProgress
from illada.config import ConfigError, DataPlacement, Examples, Quality
from pipelines.classifier import Classifier, as_line
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.quality import ALL, BINS, find_thresholds, select_by_quality
from pipelines.quality_examples import check_quality, quality_identity, read_examples
from pipelines.quality_model import MODEL, build_quality_model, judge

ONE, TWO = (DataPlacement(workers=count, cpus_per_worker=1) for count in (1, 2))
SMALL: dict[str, Any] = {"dim": 8, "buckets": 2000, "min_count": 1, "epochs": 20, "lr": 0.5, "rejected_sample": 1.0}
GOOD = [
    "theorem",
    "river",
    "history",
    "because",
    "measured",
    "evidence",
    "council",
    "therefore",
    "century",
    "ocean",
    "language",
    "author",
]
BAD = ["buy", "click", "cheap", "casino", "pills", "discount", "winner", "free", "subscribe", "offer", "deal", "bonus"]
SHARED = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "that",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "they",
    "at",
    "be",
    "this",
]


def text(draw: random.Random, good: bool) -> str:
    words = draw.choices(GOOD if good else BAD, k=15) + draw.choices(SHARED, k=25)
    draw.shuffle(words)
    return " ".join(words) + ".\n"


def write_examples(folder: Path, count: int = 200) -> dict[str, tuple[Examples, ...]]:
    draw = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"body": text(draw, True)}) for _ in range(count)]
    (folder / "good.jsonl").write_text("\n".join(rows))
    pq.write_table(pa.table({"text": [text(draw, False) for _ in range(count)]}), folder / "bad.parquet")
    return {
        "positive": (Examples(paths=(str(folder / "good.jsonl"),), text_column="body"),),
        "negative": (Examples(paths=(str(folder / "*.parquet"),)),),
    }


def plant(attempt: Any) -> dict[str, Any]:
    """300 documents, a third of them good, in three files; and code."""
    draw = random.Random(3)
    for part in range(3):
        documents = []
        for number in range(100):
            good = draw.random() < 1 / 3
            documents.append(
                TextDocument(
                    text=text(draw, good), id=document_id("web", f"{part} {number}"), url="good" if good else "bad",
                    source="web" if number % 2 else "crawl", language="de" if number % 4 == 0 else "en",
                    language_score=0.9,
                )
            )  # fmt: skip
        code = TextDocument(
            text=f"free = click({part})", id=document_id("code", str(part)), url="code", source="code",
            language="python", language_score=1.0,
        )  # fmt: skip
        write_documents(attempt.output / f"documents/{part:05d}.parquet", [*documents, code])
    return {}


def read(artifact: Artifact) -> list[TextDocument]:
    return [document for file in document_files(artifact) for document in read_documents(file.path())]


def checksums(artifact: Artifact) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in artifact.record["files"]}


@pytest.fixture
def curated(bench: Bench) -> Artifact:
    return bench.run("curate", {}, plant)


def model_of(bench: Bench, config: Quality, curated: Artifact) -> Artifact:
    identity = quality_identity(config)
    return bench.run(
        "quality-model", identity, lambda attempt: build_quality_model(config, curated, attempt, NoProgress())
    )


@pytest.mark.usefixtures("cluster")
def test_the_best_of_a_planted_corpus_are_kept(
    bench: Bench, curated: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.documents.ROW_GROUP", 10)
    monkeypatch.setattr("pipelines.quality._UNIT_GROUPS", 2)
    config = Quality(**write_examples(tmp_path), **SMALL, keep=0.2)
    model = model_of(bench, config, curated)
    figures = model.statistics
    assert figures["held_out"]["auc"] > 0.99
    assert figures["held_out"]["precision"] > 0.9 and figures["held_out"]["recall"] > 0.9
    assert sum(figures["examples"].values()) + figures["held_out"]["positive"] + figures["held_out"]["negative"] == 400
    assert model.names == [MODEL]
    with bench.store.attempt(model_identity("again")) as attempt:
        attempt.identity.config.update(quality_identity(config))
        build_quality_model(config, curated, attempt, NoProgress())
        assert (attempt.output / MODEL).read_bytes() == model.path(MODEL).read_bytes(), "training is deterministic"

    def selected(run: int, work: Any) -> Artifact:
        return bench.run("quality", {"run": run}, work)

    first = selected(1, lambda attempt: select_by_quality(config, curated, model, attempt, ONE, NoProgress()))
    second = selected(2, lambda attempt: select_by_quality(config, curated, model, attempt, TWO, NoProgress()))

    def stopped(attempt: Any) -> dict[str, Any]:
        for _ in range(3):  # at first while scoring, later while writing
            with contextlib.suppress(BaseException):
                select_by_quality(config, curated, model, attempt, TWO, Interrupt())
        return select_by_quality(config, curated, model, attempt, ONE, NoProgress())

    third = selected(3, stopped)
    assert checksums(first) == checksums(second) == checksums(third)
    assert first.statistics == second.statistics == third.statistics

    kept = read(first)
    before = {document.id: document for document in read(curated)}
    classifier = Classifier(model.path(MODEL))
    scores = {key: classifier.score(as_line(item.text)) for key, item in before.items() if item.language != "python"}
    threshold = sorted(scores.values(), reverse=True)[60 - 1]
    assert first.statistics["thresholds"] == {ALL: threshold}
    expected = [key for key, item in before.items() if item.language == "python" or scores[key] >= threshold]
    assert [document.id for document in kept] == expected
    assert len(expected) == 60 + 3, "a fifth of 300, and code"
    for document in kept:
        assert document.quality == (0.0 if document.source == "code" else scores[document.id])
        assert document.url in ("good", "code")
    (row,) = first.statistics["funnel"]
    assert (row["documents_in"], row["documents_out"], row["dropped"]) == (303, 63, {"low_quality": 240})
    rejected = [
        row
        for name in first.names
        if name.startswith("rejected/")
        for row in pq.read_table(first.path(name)).to_pylist()
    ]
    assert len(rejected) == 240 and {row["reason"] for row in rejected} == {"low_quality"}
    distribution = first.statistics["scores"]
    for kind, groups in (("languages", {"en", "de"}), ("sources", {"web", "crawl"})):
        assert set(distribution[kind]) == groups
        assert sum(sum(group["scores"]) for group in distribution[kind].values()) == 300
        assert sum(group["kept"] for group in distribution[kind].values()) == 60
        assert all(len(group["scores"]) == BINS for group in distribution[kind].values())

    later = selected(
        4, lambda attempt: select_by_quality(config, curated, model, attempt, ONE, NoProgress(), {ALL: 0.0})
    )
    assert len(read(later)) == 303, "the thresholds of a corpus decide for what is added"
    apart = config.model_copy(update={"by_language": True})
    fourth = selected(5, lambda attempt: select_by_quality(apart, curated, model, attempt, TWO, NoProgress()))
    counts = [sum(document.language == language for document in read(fourth)) for language in ("de", "en")]
    assert counts == [15, 45], "a fifth of 75 and of 225"


@pytest.mark.usefixtures("cluster")
def test_a_model_that_was_tampered_with_is_not_loaded(bench: Bench, curated: Artifact, tmp_path: Path) -> None:
    config = Quality(**write_examples(tmp_path, 120), **SMALL)
    model = model_of(bench, config, curated)
    path = model.path(MODEL)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match=r"model\.bin: is not the model that was trained; build its stage again"):
        bench.run("quality", {}, lambda at: select_by_quality(config, curated, model, at, ONE, NoProgress()))


def model_identity(name: str) -> Any:
    from illada.artifacts import StageIdentity

    return StageIdentity(stage="quality-model", version=2, config={}, inputs={"name": name})


def test_documents_of_sources_are_examples(bench: Bench, curated: Artifact) -> None:
    labels = {"positive": (Examples(from_source="web"),), "negative": (Examples(from_source="crawl", documents=40),)}
    examples = read_examples(Quality(**labels), curated, NoProgress())
    of = {
        source: {as_line(item.text) for item in read(curated) if item.source == source} for source in ("web", "crawl")
    }
    assert set(examples["positive"]) == of["web"]
    assert len(examples["negative"]) == 40 and set(examples["negative"]) <= of["crawl"]


def test_what_cannot_work_is_said_before_any_work(bench: Bench, curated: Artifact, tmp_path: Path) -> None:
    sets = write_examples(tmp_path, 120)
    check_quality(Quality(**sets), ["web"])
    source = Examples(from_source="encyclopaedia")
    for change, fault in (
        ({"positive": (source,)}, r"data\.quality\.positive: from_source 'encyclopaedia' is none of the sources web"),
        ({"negative": (Examples(paths=(str(tmp_path / "no*"),)),)}, r"no\* matches no file"),
        ({"positive": (Examples(paths=sets["positive"][0].paths),)}, r"good\.jsonl:1 has no 'text'; it has body"),
        ({"negative": (Examples(paths=sets["negative"][0].paths, text_column="x"),)}, r"bad\.parquet: has no column"),
    ):
        with pytest.raises(ConfigError, match=fault):
            check_quality(Quality(**{**sets, **change}), ["web"])
    few = Quality(**write_examples(tmp_path / "few", 60))
    with pytest.raises(
        ConfigError, match=r"data\.quality\.positive: 60 examples in its files, at least 100 are needed"
    ):
        check_quality(few, ["web"])
    with pytest.raises(ValueError, match="60 positive examples, at least 100 are needed"):
        model_of(bench, few, curated)
    with pytest.raises(ValueError, match=r"training diverged \(Encountered NaN\.\); lower lr, which is 100\.0"):
        model_of(bench, Quality(**sets, **{**SMALL, "lr": 100.0}), curated)
    with pytest.raises(ValueError, match="give one of them"):
        Examples()
    with pytest.raises(ValueError, match="give one of them"):
        Examples(paths=("a",), from_source="b")


def test_texts_under_both_labels_teach_nothing(bench: Bench, curated: Artifact, tmp_path: Path) -> None:
    sets = write_examples(tmp_path, 120)
    rows = [{"body": row["text"]} for row in pq.read_table(tmp_path / "bad.parquet").to_pylist()[:7]]
    with (tmp_path / "good.jsonl").open("a") as file:
        file.writelines("\n" + json.dumps(row) for row in rows)
    model = model_of(bench, Quality(**sets, **SMALL), curated)
    assert model.statistics["conflicting"] == 7
    held_out = model.statistics["held_out"]
    assert model.statistics["examples"]["negative"] + held_out["negative"] == 113


def test_lines_are_one_line_and_speak_no_fasttext() -> None:
    line = as_line(" A\u2028b\r\n__label__positive </s> c\0d \ud800 é\t")
    assert line == "A b _ _label__positive < /s> c d ? é"
    assert as_line(line) == line


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_figures_of_held_out_examples(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([score / 4 for score, _ in rows]), np.array([good for _, good in rows], dtype=bool)
    found = judge(scores, positive)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[positive], scores[~positive])]
    assert found["auc"] == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)
    said = [good for score, good in zip(scores, positive, strict=True) if score >= 0.5]
    assert found["precision"] == (pytest.approx(sum(said) / len(said)) if said else None)
    assert found["recall"] == (pytest.approx(sum(said) / positive.sum()) if positive.any() else None)
    assert sum(bucket["examples"] for bucket in found["calibration"]) == len(rows)


@given(st.lists(st.integers(0, 5) | st.none(), min_size=1, max_size=40), st.floats(0.01, 1))
def test_thresholds_keep_the_asked_share_and_ties(values: list[int | None], keep: float) -> None:
    scores = np.array([math.nan if value is None else value / 5 for value in values], np.float32)
    counted = sorted((float(score) for score in scores if not math.isnan(score)), reverse=True)
    if not counted:
        with pytest.raises(ValueError, match="no document to score"):
            find_thresholds(keep, scores, None)
        return
    threshold = find_thresholds(keep, scores, np.array(["en"] * len(scores)))
    assert threshold[ALL] == threshold["en"]
    kept = sum(score >= threshold[ALL] for score in counted)
    assert sum(score > threshold[ALL] for score in counted) < keep * len(counted) + 1e-9 <= kept + 1e-9
