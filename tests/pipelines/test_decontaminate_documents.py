"""Stage `decontaminate-documents`: planted benchmark text is cut or dropped, the final report finds nothing, the rest
is as it was."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from text_bench import Bench, Interrupt, prose

from illada.artifacts import Artifact, Attempt, NoProgress, Progress, StageInterrupted
from illada.config import Benchmark, DataConfig, DataPlacement, Decontaminate, Gates, Pairs, Tokenizer, WarcFiles
from illada.release.gates import judge_decontamination
from pipelines.benchmarks import decontaminate_identity, read_items, removal_identity
from pipelines.cutting import BenchmarkFilter
from pipelines.decontaminate import REPORT, decontaminate
from pipelines.decontaminate_documents import CLEAN, decontaminate_documents
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.ngrams import NgramIndex
from pipelines.pairs import build_pairs
from pipelines.tokenizer import build_tokenizer

PLACE = DataPlacement(workers=1)
ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT.parent / "shared" / "data" / "benchmarks"
ITEMS = 24


def item(number: int) -> str:
    """A question of two sentences; no two have many words in common."""
    generator = random.Random(number)
    names = [f"{generator.choice('bdgkmst')}a{generator.choice('lnrst')}o{generator.randrange(900)}" for _ in range(16)]
    return f"How many {' '.join(names[:8])} are there? Each of the {' '.join(names[8:])} holds {number} more of it."


def mangled(text: str, how: int) -> str:
    """The same words in other clothes."""
    changes = [
        str.upper,
        lambda text: text.replace(" ", "\n\t "),
        lambda text: text.replace("?", " --").replace(".", ""),
        lambda text: "_".join(text.title().split(" ")),
        lambda text: " * ".join(text.split(" ")) + "\u2026",
    ]
    return changes[how % len(changes)](text)


@pytest.fixture
def config(tmp_path: Path) -> Decontaminate:
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"q": item(n)}) + "\n" for n in range(ITEMS)))
    return Decontaminate(
        action="cut", benchmarks=(Benchmark(name="q", paths=(str(tmp_path / "q.jsonl"),), columns=("q",)),)
    )


def texts() -> list[TextDocument]:
    """Each item in the middle of a long document, every third document clean."""
    made = []
    for number in range(ITEMS + ITEMS // 2):
        paragraphs = [*prose("en", number, 24), *prose("de", number)]
        if number % 3:
            planted = (number // 3) * 2 + number % 3 - 1
            paragraphs[4] = f"{paragraphs[4]} {mangled(item(planted), planted)} {paragraphs[5]}"
        text = "\n\n".join(paragraphs)
        made.append(
            TextDocument(
                text=text,
                id=document_id("s", text),
                url="",
                source="s",
                language="en",
                language_score=1,
                title=f"T {number}",
            )
        )
    return made


def corpus(bench: Bench, documents: Iterable[TextDocument]) -> Artifact:
    def build(attempt: Attempt) -> dict[str, Any]:
        write_documents(attempt.output / "documents" / "00000.parquet", documents)
        return {}

    return bench.run("deduplicate", {}, build)


def clean(
    bench: Bench, config: Decontaminate, documents: Artifact, progress: Progress | None = None, workers: int = 1
) -> Artifact:
    place = DataPlacement(workers=workers)
    return bench.run(
        CLEAN,
        removal_identity(config),
        lambda attempt: decontaminate_documents(config, documents, attempt, place, progress or NoProgress()),
    )


def kept(artifact: Artifact) -> dict[str, TextDocument]:
    return {document.id: document for file in document_files(artifact) for document in read_documents(file.path())}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("action", ["cut", "drop"])
def test_nothing_planted_is_left(bench: Bench, config: Decontaminate, tmp_path: Path, action: str) -> None:
    config = config.model_copy(update={"action": action})
    before = texts()
    made = clean(bench, config, corpus(bench, before))
    after = kept(made)
    statistics = made.statistics
    assert statistics["benchmarks"]["q"] == {"items": ITEMS, "checked": ITEMS, "matched": ITEMS, "documents": ITEMS}
    (row,) = statistics["funnel"]
    assert (row["documents_in"], statistics["contaminated"]) == (len(before), ITEMS)
    assert row["dropped"] == ({} if action == "cut" else {"benchmark": ITEMS})
    for number, document in enumerate(before):
        if number % 3 == 0:
            assert after.pop(document.id) == document
        elif action == "cut":
            rest = after.pop(document.id)
            first, last = document.text.split("\n\n")[0], document.text.split("\n\n")[-1]
            assert rest.text.startswith(first) and rest.text.endswith(last)
            assert len(rest.text) > 0.7 * len(document.text)
    assert not after
    report = json.loads(made.path(REPORT).read_text(encoding="utf-8"))
    assert report["examples"] and len(report["matched_items"]) == ITEMS
    if action == "cut":
        assert statistics["cut_documents"] == ITEMS and all(row["removed"] for row in report["examples"])

    lines = [{"prompt": f"Question {n}", "response": f"Answer {n}"} for n in range(6)]
    lines += [{"prompt": "Well?", "response": f"So: {mangled(item(n), n)}"} for n in range(ITEMS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = bench.run(
        "tokenizer", {}, lambda attempt: build_tokenizer(Tokenizer(vocab_size=300), made, attempt, NoProgress())
    )
    chat = Pairs(files=(str(tmp_path / "pairs.jsonl"),))
    pairs = bench.run(
        "pairs", {}, lambda attempt: build_pairs(chat, [made], tokenizer, attempt, NoProgress(), unseen=config)
    )
    assert (pairs.statistics["contaminated"], pairs.statistics["origins"]) == (ITEMS, {"file": 6})

    corpora = {made.stage: made, pairs.stage: pairs}
    final = bench.run(
        "decontaminate",
        decontaminate_identity(config),
        lambda attempt: decontaminate(config, corpora, attempt, PLACE, NoProgress()),
    )
    assert final.statistics["contaminated_documents"] == 0 < final.statistics["documents"]
    facts = {"trained_on": {name: made.fingerprint for name, made in corpora.items()}, "report": final.statistics}
    assert judge_decontamination(Gates(contaminated_share=0), facts).passed


@pytest.mark.usefixtures("cluster")
def test_workers_and_interruption_do_not_show(bench: Bench, config: Decontaminate, tmp_path: Path) -> None:
    documents = corpus(bench, texts())
    other = Bench(tmp_path / "other")
    with pytest.raises(StageInterrupted):
        clean(other, config, documents, Interrupt())
    assert clean(other, config, documents, workers=2).content == clean(bench, config, documents).content


def sieve(config: Decontaminate, *indexed: str) -> BenchmarkFilter:
    return BenchmarkFilter(NgramIndex.build(enumerate(indexed), config.ngram), config)


def some(**changes: Any) -> Decontaminate:
    benchmark = Benchmark(name="b", paths=("none.jsonl",), columns=("q",))
    return Decontaminate(**{"ngram": 4, "action": "cut", "benchmarks": (benchmark,), **changes})


def test_a_cut_ends_with_its_sentences() -> None:
    filter_ = sieve(some(max_cut_share=0.6), "one two three four five")
    document = Document(text="A start. It is One, two; THREE four five!) The rest.\nAnother line.", id="0")
    assert filter_.filter(document) is True
    assert document.text == "A start. The rest.\nAnother line."
    (cut,) = filter_.cuts
    assert (cut.before, cut.removed) == ("A start. ", "It is One, two; THREE four five!) ")


def test_what_grows_together_at_a_seam_is_cut_too() -> None:
    filter_ = sieve(some(max_cut_share=1), "one two three four")
    document = Document(text="Keep me.\none two\none two three four\nthree four\nAnd me.", id="0")
    assert filter_.filter(document) is True
    assert document.text == "Keep me.\nAnd me."


def test_limits() -> None:
    text = "\n".join(f"one two three four\nline {number} is kept here as it was" for number in range(4))
    for changes, reason in (
        ({"max_cuts": 3}, "too_many_cuts"),
        ({"max_cut_share": 0.3}, "too_much_cut"),
        ({"action": "drop"}, "benchmark"),
        ({"max_cuts": 4}, None),
    ):
        verdict = sieve(some(**changes), "one two three four").filter(Document(text=text, id="0"))
        assert verdict == (True if reason is None else (False, reason))


def test_letters_whose_lower_case_is_longer() -> None:
    index = NgramIndex.build([(0, "\u0130stanbul one two three")], 4)
    text = "\u0130\u0130\u0130. \u0130stanbul One two THREE. End"
    spans = index.spans(text)  # its dot is no letter, so that there are five words
    start, end = spans[0][0], spans[-1][1]
    assert text[start:end] == "\u0130stanbul One two THREE"


@settings(max_examples=300, deadline=None)
@given(
    indexed=st.lists(st.lists(st.sampled_from("abcd"), min_size=4, max_size=8).map(" ".join), min_size=1, max_size=4),
    text=st.lists(st.sampled_from([*"abcdx", "A", ".", "\n", " ", "! ", "\u3002", "\u0130"]), max_size=60),
)
def test_what_is_kept_holds_nothing_and_clean_text_is_untouched(indexed: list[str], text: list[str]) -> None:
    whole = " ".join(text)
    filter_ = sieve(some(max_cut_share=1, max_cuts=1000), *indexed)
    index = NgramIndex.build(enumerate(indexed), 4)
    document = Document(text=whole, id="0")
    if filter_.filter(document) is True:
        assert index.find(document.text) == []
        if not index.find(whole):
            assert document.text == whole and not filter_.cuts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decontaminate": {"action": "cut"}}, "action cut needs benchmarks"),
        ({"sources": (), "corpus": {"name": "web", "snapshot": 1}}, r"refreshes, which have a decontaminate"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], message: str) -> None:
    good = {
        "sources": (WarcFiles(name="w", paths=("a",)),),
        "tokenizer": Tokenizer(vocab_size=300),
        "decontaminate": some(),
    }
    assert DataConfig(**good)
    with pytest.raises(ValidationError, match=message):
        DataConfig(**{**good, **changes})


def test_the_recipes_benchmarks_can_be_read() -> None:
    config = Decontaminate(**yaml.safe_load((ROOT / "configs" / "benchmarks" / "recipe.yaml").read_text("utf-8")))
    if not BENCHMARKS.exists():
        pytest.skip("no shared data here")
    counts = {}
    for benchmark in config.benchmarks:
        paths = tuple(str(BENCHMARKS.parent / path) for path in benchmark.paths)
        counts[benchmark.name] = sum(1 for _ in read_items(benchmark.model_copy(update={"paths": paths})))
    assert counts == {
        "arc-challenge": 1172 + 1119,
        "arc-challenge-hub": 299,
        "bbh": 6511,
        "gsm8k": 1319 + 7473,
        "hellaswag": 10042,
        "humaneval": 164,
        "math": 500,
        "mbpp": 974,
        "mmlu": 285 + 14042 + 1531,
        "mmlu-pro": 12032,
        "mmlu-redux": 5700,
        "piqa": 16113 + 1838,
    }
