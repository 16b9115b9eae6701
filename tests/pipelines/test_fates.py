"""Who of several duplicates is kept, against brute force over all pairs; what is one address; what is oldest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed import DOCUMENTS, Inline, Signed, attempt_at, decide
from text_bench import Bench, prose

from illada.artifacts import Artifact, Attempt, NoProgress
from illada.config import DataPlacement, Deduplicate
from pipelines.addresses import normal_url
from pipelines.blocks import Fate
from pipelines.deduplicate import deduplicate
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.precedence import moment


@pytest.fixture(scope="module")
def inline() -> Inline:
    return Inline()


def survivors(left: list[int], documents: list[Signed], alike: Callable[[Signed, Signed], bool]) -> list[int]:
    """The best document of each connected component of pairs that are alike."""
    component = {number: number for number in left}
    for a in left:
        for b in left:
            if alike(documents[a], documents[b]):
                old, new = component[b], component[a]
                component = {number: new if c == old else c for number, c in component.items()}
    groups: dict[int, list[int]] = {}
    for number, c in component.items():
        groups.setdefault(c, []).append(number)
    return sorted(min(group, key=lambda number: (documents[number].precedence, number)) for group in groups.values())


def close(a: Signed, b: Signed) -> bool:
    return a.comparable and b.comparable and any(x == y for x, y in zip(a.bands, b.bands, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(DOCUMENTS, max_size=3).map(lambda parts: [document for part in parts for document in part]),
    st.sampled_from([1, 2, 3, 18]),
    st.sampled_from([3, 10, 100]),
)
def test_fates_are_those_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, inline: Inline, documents: list[Signed], bits: int, range_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.exchange.RANGE_ROWS", range_rows)
        fates, _ = decide(documents, inline, attempt_at(tmp_path_factory.mktemp("decided")), None, bits)

    def left(*reasons: Fate) -> list[int]:
        return [number for number, fate in enumerate(fates) if fate is Fate.KEPT or fate in reasons]

    near = (Fate.NEAR_DUPLICATE,)
    expected = survivors(list(range(len(documents))), documents, lambda a, b: a.text == b.text)
    assert left(Fate.DUPLICATE_URL, *near) == expected
    expected = survivors(expected, documents, lambda a, b: a.url is not None and a.url == b.url)
    assert left(*near) == expected
    assert left() == survivors(expected, documents, close)


SAME = [
    "http://example.org/a?b=1",
    "HTTP://Example.ORG:80/a/?b=1#part",
    "http://example.org:/a?b=1#",
]
OTHERS = [
    "https://example.org/a?b=1", "http://example.org:8080/a?b=1", "http://example.org/A?b=1", "http://example.org/a?B=1",
    "http://example.org/a", "http://www.example.org/a?b=1", "http://example.org/a?b=1&c", "http://me@example.org/a?b=1",
    "http://example.org/%61?b=1", "", "example.org/a?b=1",
]  # fmt: skip


def test_one_address_in_several_spellings() -> None:
    assert {normal_url(url) for url in SAME} == {SAME[0]}
    assert len({normal_url(url) for url in [SAME[0], *OTHERS]}) == 1 + len(OTHERS)
    assert normal_url("https://[2001:DB8::1]:443/?#x") == "https://[2001:db8::1]"
    for strange in ("http://[broken/", "mailto:a@b.example/", "/a/#b"):
        assert normal_url(strange) == strange


PARTS = st.tuples(
    st.sampled_from(["http", "HTTPS", "ftp", "x"]),
    st.just("://"),
    st.sampled_from(["", "Me:x@", "@"]),
    st.sampled_from(["A.example", "bücher.example", "[::1]", "", "İ"]),
    st.sampled_from(["", ":", ":80", ":443", ":x"]),
    st.text("/aB:@%.", max_size=6).map(lambda path: f"/{path}"),
    st.sampled_from(["", "?", "?Q=/", "??"]),
    st.sampled_from(["", "#", "#/?x"]),
)


@given(PARTS.map("".join))
def test_a_normal_form_is_its_own(url: str) -> None:
    assert normal_url(normal_url(url)) == normal_url(url)


def test_moments() -> None:
    assert moment("2024-05-01T12:00:00Z") == moment("2024-05-01T14:00:00+02:00") == moment("2024-05-01T12:00:00")
    assert moment("2024-05-01") < moment("2024-05-01T00:00:00.000001Z") < moment("20240501T010000Z")
    assert moment("") == moment("yesterday") == moment("2024-13-01") == math.inf
    assert moment("0001-01-01T00:00:00+14:00") < moment("9999-12-31T23:59:59-14:00") < math.inf


def document(number: int, text: str, **more: Any) -> TextDocument:
    values = {"url": "", "source": "s", "language": "en", "language_score": 1.0, **more}
    return TextDocument(text=text, id=document_id("s", str(number)), **values)


def corpus() -> list[TextDocument]:
    """0 to 2 are near-duplicates, 3 and 4 equal, 5 and 6 at one address, 7 and 8 at none."""
    text = "\n".join(prose("en", 0))
    other = ["\n".join(prose(language, seed)) for language, seed in (("en", 5), ("de", 6), ("de", 7), ("en", 8))]
    return [
        document(0, text, date="2024-05-02", quality=0.5, url="https://example.org/0"),
        document(1, f"{text} More.", date="", quality=0.2, url="https://example.org/1"),
        document(2, f"{text} Yes.", date="2024-05-01T20:00:00Z", quality=0.9, url="https://example.org/2"),
        document(3, other[0], date="2024-05-03", quality=0.5),
        document(4, other[0], date="2023-01-01", quality=0.7),
        document(5, other[1] + " The end.", date="2024-01-02", quality=0.1, url="http://example.org/5/"),
        document(6, other[2], date="2024-01-01", quality=0.2, url="HTTP://example.org:80/5#top"),
        document(7, "Short.", quality=0.1),
        document(8, other[3], quality=0.1),
    ]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("keep", "urls", "kept"),
    [
        ("first", False, [0, 3, 5, 6, 7, 8]),
        ("first", True, [0, 3, 5, 7, 8]),
        ("oldest", True, [2, 4, 6, 7, 8]),
        ("longest", True, [1, 3, "longer", 7, 8]),
        ("quality", True, [2, 4, 6, 7, 8]),
    ],
)
def test_who_is_kept(bench: Bench, keep: Any, urls: bool, kept: list[Any]) -> None:
    documents = corpus()
    longer = max((5, 6), key=lambda number: len(documents[number].text))

    def curated(attempt: Attempt) -> dict[str, Any]:
        for part, first in enumerate(range(0, 9, 4)):
            write_documents(attempt.output / f"documents/{part:05d}.parquet", documents[first : first + 4])
        return {}

    source = bench.run("curate", {}, curated)
    config, place = Deduplicate(keep=keep, urls=urls), DataPlacement(workers=2, cpus_per_worker=1)
    after: Artifact = bench.run(
        "deduplicate", config.identity(), lambda attempt: deduplicate(config, source, attempt, place, NoProgress())
    )
    found = [document for file in document_files(after) for document in read_documents(Path(file.path()))]
    expected = [longer if number == "longer" else number for number in kept]
    assert [document.id for document in found] == [documents[number].id for number in expected]
    funnel = {row["step"]: row["dropped"] for row in after.statistics["funnel"]}
    steps = {"exact": {"duplicate": 1}, "url": {"duplicate_url": 1}, "near": {"near_duplicate": 2}}
    assert funnel == {step: dropped for step, dropped in steps.items() if urls or step != "url"}
