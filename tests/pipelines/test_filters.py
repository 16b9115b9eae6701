"""The chain decides as datatrove's own classes do, one after the other."""

from __future__ import annotations

import functools
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    URLFilter,
)
from datatrove.utils._import_utils import ASSETS_PATH
from datatrove.utils.word_tokenizers import SpaCyTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import page, prose

from illada.config import Curate, GopherQuality
from pipelines.filters import build_chain, step_names
from pipelines.languages import identify_language
from pipelines.recorder import Recorder, run_chain
from pipelines.sandbox import SandboxError
from pipelines.urls import HashSet, OfflineURLFilter, build_block_lists

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text"
RIGHTS, C4 = SHARED / "nltk_udhr2.zip", SHARED / "c4_demo.jsonl"
NO_URLS = Curate(url_filter=False)


def document(text: str, kind: str = "text", url: str = "https://example.org/x", number: int = 0) -> Document:
    metadata = {"url": url, "source": "s", "language": "", "language_score": 0.0, "title": "", "date": "", "kind": kind}
    return Document(text=text, id=f"{number:032x}", metadata=metadata)


def run(config: Curate, documents: list[Document], lists: Path = Path("unused")) -> tuple[list[Document], Recorder]:
    recorder = Recorder(step_names(config), "file", sample=1.0)
    kept = list(run_chain(build_chain(config, [lists / "domains.npy", lists / "urls.npy"]), iter(documents), recorder))
    recorder.funnel.rows()  # checks that all are accounted for
    return kept, recorder


def reasons(recorder: Recorder) -> list[tuple[str, str]]:
    return [(row["step"], row["reason"]) for row in recorder.rejected]


@pytest.mark.skipif(not C4.exists(), reason="shared data is absent")
def test_real_web_text_is_judged_as_by_datatrove() -> None:
    texts = [json.loads(line)["text"] for line in C4.read_text().splitlines()][:120]
    texts += [text.replace(". ", ".\n") for text in texts[:60]] + [text[:600] for text in texts[:40]]
    english = SpaCyTokenizer("en")
    stock = [
        ("gopher-repetition", GopherRepetitionFilter(language=english)),
        ("gopher-quality", GopherQualityFilter(language=english)),
        ("c4", C4QualityFilter(filter_no_terminal_punct=False, language=english)),
        ("fineweb", FineWebQualityFilter(language=english)),
    ]
    expected: dict[str, Any] = {}
    config = Curate(url_filter=False, languages=("en",), language_threshold=0)
    documents = [document(text, number=number) for number, text in enumerate(texts)]
    for item in documents:
        if identify_language(item.text)[0] != "en":
            continue
        copy = Document(text=item.text, id=item.id)
        for step, judge in stock:
            verdict = judge.filter(copy)
            if verdict is not True:
                expected[item.id] = (step, verdict[1])
                break
        else:
            expected[item.id] = copy.text
    kept, recorder = run(config, documents)
    found = {item.id: item.text for item in kept}
    found |= {row["id"]: (row["step"], row["reason"]) for row in recorder.rejected if row["step"] != "language"}
    assert found == expected
    assert len({value for value in expected.values() if isinstance(value, tuple)}) >= 4
    assert kept


@pytest.mark.skipif(not RIGHTS.exists(), reason="shared data is absent")
def test_running_text_of_every_language_passes() -> None:
    names = {"en": "eng", "fr": "fra", "de": "deu", "es": "spa", "it": "ita", "pt": "por_PT", "nl": "nld", "ru": "rus"}
    archive = zipfile.ZipFile(RIGHTS)
    documents = []
    for number, name in enumerate(names.values()):
        lines = [line.strip() for line in archive.read(f"udhr2/{name}.txt").decode().splitlines()]
        documents.append(document("\n".join(line for line in lines if len(line) > 60), number=number))
    kept, recorder = run(NO_URLS, documents)
    assert [item.metadata["language"] for item in kept] == list(names), reasons(recorder)
    assert all(item.metadata["language_score"] > 0.9 for item in kept)


def test_pages_become_text_in_their_language() -> None:
    html = {lang: page(prose(lang, 1), f"Title {lang}").decode() for lang in ("en", "de")}
    kept, _ = run(NO_URLS, [document(text, "html", number=number) for number, text in enumerate(html.values())])
    assert [(item.metadata["language"], item.metadata["title"]) for item in kept] == [
        ("en", "Title en"),
        ("de", "Title de"),
    ]
    assert all("<" not in item.text for item in kept)


def test_reasons_are_told() -> None:
    config = Curate(url_filter=False, languages=("en",))
    text = "\n".join(prose("en", 2))
    documents = [
        document("<html><body></body></html>", "html"),
        document("\n".join(prose("de", 1))),
        document("zq xv 12 kw"),
        document("\n".join([text] * 5)),
        document("\n".join(prose("en", 3, 3))),
        document(text.replace(".", " {", 1)),
    ]
    kept, recorder = run(config, documents)
    assert not kept
    steps = reasons(recorder)
    assert steps[0] == ("extract", "no_text")
    assert steps[1] == ("language", "other_language")
    assert steps[2][0] == "language"
    assert steps[3] == ("gopher-repetition", "dup_line_frac")
    assert steps[4] == ("gopher-quality", "gopher_short_doc")
    assert steps[5] == ("c4", "curly_bracket")


def test_filters_can_be_left_out_and_set() -> None:
    none = Curate(url_filter=False, gopher_repetition=None, gopher_quality=None, c4=None, fineweb=None)
    assert step_names(none) == ["extract", "language"]
    short = document("\n".join(prose("en", 3, 3)))
    assert len(run(none, [short])[0]) == 1
    assert reasons(run(Curate(url_filter=False), [document(short.text)])[1]) == [("gopher-quality", "gopher_short_doc")]
    text = "\n".join(prose("en", 2))
    assert reasons(
        run(Curate(url_filter=False, gopher_quality=GopherQuality(max_doc_words=60)), [document(text)])[1]
    ) == [("gopher-quality", "gopher_long_doc")]
    assert reasons(run(Curate(url_filter=False, language_threshold=1), [document(text)])[1]) == [
        ("language", "uncertain_language")
    ]


def test_code_passes_untouched() -> None:
    text = "x = {1: 'a'}\n" * 30
    kept, recorder = run(NO_URLS, [document(text, "code")])
    assert [item.text for item in kept] == [text]
    assert not recorder.rejected


def test_a_document_that_breaks_a_filter_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(self: object, text: Document) -> None:
        if "chestnut" in text.text:
            raise KeyError("chestnut")

    monkeypatch.setattr("pipelines.fused._C4.__call__", fragile)
    monkeypatch.setattr("pipelines.extract.Sandbox", lambda *_: _fragile_extractor)
    texts = ["\n".join(prose("en", seed, 15)) for seed in range(8)]
    kept, recorder = run(NO_URLS, [document(text, number=number) for number, text in enumerate(texts)])
    broken = sum("chestnut" in text for text in texts)
    assert 0 < broken < 8
    assert len(kept) == 8 - broken
    rows = {row["step"]: row for row in recorder.funnel.rows()}
    assert rows["c4"]["failed"] == {"error": broken}
    assert recorder.damaged[0] == {"file": "file", "record": "https://example.org/x", "error": "KeyError: 'chestnut'"}
    _, recorder = run(NO_URLS, [document("<html>", "html")])
    assert recorder.damaged[0]["error"] == "RecursionError: too deep"


def _fragile_extractor(html: str) -> tuple[str, str]:
    raise SandboxError("error", "RecursionError: too deep")


def test_rejected_documents_are_sampled_by_id() -> None:
    documents = [document("short", number=number * 2**128 // 200) for number in range(200)]
    sampled = []
    for sample in (0.0, 0.3, 1.0):
        recorder = Recorder(["step"], "file", sample)
        for item in documents:
            recorder.reject("step", item, "why")
        sampled.append([row["id"] for row in recorder.rejected])
    assert sampled[0] == [] and len(sampled[2]) == 200
    assert set(sampled[1]) < set(sampled[2])


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    build_block_lists(folder)
    return folder


def listed(name: str, count: int) -> Iterator[str]:
    with tarfile.open(Path(ASSETS_PATH) / "url_filterblacklistsv0_3_0.tar.gz") as archive:
        member = archive.extractfile(name)
        assert member is not None
        lines = [line.decode() for line in member.read(4_000_000).splitlines()[:-1]]
    yield from lines[:: max(1, len(lines) // count)]


def test_block_lists_hold_what_datatroves_hold(lists: Path) -> None:
    for name in ("domains", "urls"):
        hashes = HashSet(lists / f"{name}.npy")
        for line in listed(name, 2000):
            assert line in hashes
            assert f"{line}-not-listed" not in hashes
    assert sum(path.stat().st_size for path in lists.iterdir()) < 40e6


def test_block_lists_are_built_once(lists: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in lists.iterdir()}
    build_block_lists(lists)
    assert before == {path: path.stat().st_mtime_ns for path in lists.iterdir()}


PARTS = ["https://", "http://", "user@", "www.", "example.org", "co.uk", "127.0.0.1", "[::1]", ":80", "/", "?q=", "#",
         "-", "_", "%20", "é", "sex", "porn", "anal", "teen", "girls", "xxx", "nude", "hot", "analysis"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=9), st.integers(0, 9))
def test_urls_are_judged_as_by_the_stock_filter(lists: Path, parts: list[str], place: int) -> None:
    ours = offline(lists)
    for url in ("".join(parts), f"https://a.{some('domains')[place]}/{''.join(parts)}", some("urls")[place]):
        assert ours.filter(document("", url=url)) == URLFilter.filter(ours, document("", url=url))


@functools.cache
def some(name: str) -> list[str]:
    return list(listed(name, 10))


@functools.cache
def offline(lists: Path) -> OfflineURLFilter:
    return OfflineURLFilter([lists / "domains.npy", lists / "urls.npy"])


def test_urls_are_judged_offline(lists: Path) -> None:
    domain = next(line for line in listed("domains", 1000) if line.count(".") == 1)
    url = next(line for line in listed("urls", 1000) if "/" in line)
    stock = offline(lists)
    assert stock.filter(document("", url=f"https://{domain}/page")) == (False, "domain")
    assert stock.filter(document("", url=url)) == (False, "url") or "://" not in url
    for good in ("https://docs.debian-packages.invalid/git-doc/usr/share/doc/index.html", "https://example.org/"):
        assert stock.filter(document("", url=good)) is True
    text = "\n".join(prose("en", 5))
    kept, recorder = run(Curate(), [document(text, url=f"http://{domain}/"), document(text, url="")], lists)
    assert len(kept) == 1 and kept[0].metadata["url"] == ""
    assert reasons(recorder) == [("url", "domain")]
