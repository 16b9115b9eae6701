"""The extraction step: pages in, documents out, and none is lost."""

from __future__ import annotations

import pickle
from random import Random
from typing import Literal

import pytest
from datatrove.data import Document
from text_bench import page, prose

from pipelines.charset import decode
from pipelines.extract import Extract
from pipelines.extractors import exact, fast
from pipelines.recorder import FAILED

METHODS = ["exact", "fast"]


class Rejected(list[Document]):
    def write(self, document: Document, rank: int = 0) -> None:
        self.append(document)


def documents(*pages: str) -> list[Document]:
    return [Document(text=html, id=str(number)) for number, html in enumerate(pages)]


@pytest.mark.parametrize("method", METHODS)
def test_alone_it_is_a_step_of_datatrove(method: Literal["exact", "fast"]) -> None:
    paragraphs = prose("en", 3)
    step = pickle.loads(pickle.dumps(Extract(method)))  # as its executors do
    rejected = Rejected()
    step = Extract(method, rejected)
    assert pickle.loads(pickle.dumps(step)).name == "main text"
    code = Document(text="<p>", id="code", metadata={"kind": "code"})
    html = page(paragraphs, "Old &amp; new\n  tales").decode()
    kept = list(step.run(iter([*documents(html, "", "\0", "<html><body><script>x()</script></body></html>"), code])))
    assert [document.id for document in kept] == ["0", "code"]
    assert kept[0].metadata == {"title": "Old & new tales", "kind": "text"}
    assert all(paragraph in kept[0].text for paragraph in paragraphs)
    assert "About" not in kept[0].text
    assert kept[1].text == "<p>"
    assert [(document.id, document.metadata["filter_reason"]) for document in rejected] == [
        (name, "no_text") for name in "123"
    ]
    assert not any(FAILED in document.metadata for document in rejected)
    counts = {name: int(stat.total) for name, stat in step.stats.stats.items()}
    assert counts == {"total": 5, "dropped": 3, "dropped_no_text": 3, "forwarded": 2}


def test_a_page_over_a_limit_fails_alone_and_is_named() -> None:
    good = page(prose("en", 3), "Tales").decode()
    endless = "<div>" + "<p>word <b>word</b> word</p>" * 60_000
    for limits, reason in (({"page_seconds": 0.2}, "timeout"), ({"page_memory": 2**23}, "memory")):
        rejected = Rejected()
        step = Extract("exact", rejected, **limits)  # type: ignore[arg-type]
        kept = list(step.run(iter(documents(good, endless, good))))
        assert [document.id for document in kept] == ["0", "2"]
        assert kept[0].text == kept[1].text != ""
        assert [(document.id, document.metadata["filter_reason"]) for document in rejected] == [("1", reason)]
        assert "more than" in rejected[0].metadata[FAILED]


@pytest.mark.parametrize("make", [exact, fast])
def test_text_does_not_depend_on_the_pages_before(make: type) -> None:
    extract = make()
    html = page(prose("en", 4) * 3, "Title").decode()
    first = extract(html)
    assert {extract(html) for _ in range(5)} == {first}


@pytest.mark.parametrize("method", METHODS)
def test_of_garbage_nothing_is_lost(method: Literal["exact", "fast"]) -> None:
    random = Random(1)
    html = page(prose("en", 6), "Tales")
    tags = [
        b"<",
        b">",
        b"<p>",
        b"</",
        b"<table>",
        b"<svg><a>",
        b"<!--",
        b"<![CDATA[",
        b"&#x0;",
        b"&#xd800;",
        b"\0",
        b'="',
    ]
    garbage = [random.randbytes(400) for _ in range(40)]
    for _ in range(120):
        cut = random.randrange(len(html))
        garbage.append(
            html[:cut] + random.choice(tags) * random.choice((1, 3, 300)) + html[random.randrange(len(html)) :]
        )
    garbage += [b"<div>" * 5_000, b"<a href='" + b"x" * 10**6, b"\xe2\x80\x8f\xe2\x80\x8b" * 1000, b"a" * 10**6]
    rejected = Rejected()
    pages = documents(*(decode(raw) for raw in garbage))
    kept = list(Extract(method, rejected).run(iter(pages)))
    assert sorted(int(document.id) for document in [*kept, *rejected]) == list(range(len(garbage)))
    assert all(document.text.strip() and document.text.encode() for document in kept)
    assert {document.metadata["filter_reason"] for document in rejected} <= {"no_text", "error"}
