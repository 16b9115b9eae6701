"""Repeated text is what a set of all windows finds, however the corpus is cut into files, blocks and ranges."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from text_bench import Bench, Interrupt, prose

from illada.artifacts import Artifact, Attempt, DamagedWork, Folder, NoProgress, Progress, StageInterrupted, sha256_file
from illada.config import CorpusSnapshot, DataConfig, DataPlacement, RefreshConfig, Substrings, Tokenizer
from pipelines import repeats
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.exchange import part_of, range_bits, read_parts, write_parts
from pipelines.pool import Unit, UnitResult, Worker
from pipelines.repeats import SubstringsWorker
from pipelines.spans import marked_spans, whole_words, without_spans
from pipelines.substrings import substrings
from pipelines.suffix_array import first_windows, suffix_array
from pipelines.window_kernels import covered, least_within, window_hashes

SMALL = st.binary(max_size=60).map(lambda data: bytes(b"ab\0\xff"[byte % 4] for byte in data))
PRIME = 2**61 - 1


def array(data: bytes) -> Any:
    return np.frombuffer(data, dtype=np.uint8)


@settings(max_examples=300, deadline=None)
@given(SMALL | st.integers(0, 60).map(lambda n: b"a" * n) | st.integers(0, 30).map(lambda n: b"ab" * n))
def test_suffix_array(text: bytes) -> None:
    assert suffix_array(array(text)).tolist() == sorted(range(len(text)), key=lambda place: text[place:])


@settings(max_examples=300, deadline=None)
@given(st.lists(SMALL, max_size=5), st.integers(1, 6))
def test_first_windows(texts: list[bytes], size: int) -> None:
    expected, seen, at = [], dict[bytes, int](), 0
    for text in texts:
        windows = [text[place : place + size] for place in range(len(text))]
        expected += [seen.setdefault(w, at + n) if len(w) == size else -1 for n, w in enumerate(windows)]
        at += len(text)
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    assert first_windows(array(b"".join(texts)), ends, size).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=50), st.integers(1, 12), st.integers(2**60, PRIME - 1), st.integers(1, 8))
def test_window_hashes(text: bytes, size: int, base: int, within: int) -> None:
    expected = [
        sum(byte * pow(base, size - 1 - n, PRIME) for n, byte in enumerate(text[place : place + size])) % PRIME
        for place in range(len(text) - size + 1)
    ]
    hashes = window_hashes(array(text), size, np.uint64(base))
    assert hashes.tolist() == expected
    least = [min(expected[place : place + within]) for place in range(len(expected) - within + 1)]
    assert least_within(hashes, within).tolist() == least


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 6))
def test_covered_bytes_and_their_spans(marks: list[bool], size: int) -> None:
    inside = covered(np.array(marks, dtype=bool), size)
    assert inside.tolist() == [any(marks[max(0, n - size + 1) : n + 1]) for n in range(len(marks))]
    places = [n for start, end in marked_spans(inside) for n in range(start, end)]
    assert places == np.flatnonzero(inside).tolist()


@settings(max_examples=300, deadline=None)
@given(st.text("ab \né漢", max_size=60), st.lists(st.booleans(), min_size=180, max_size=180))
def test_cuts_leave_whole_words_and_characters(text: str, marks: list[bool]) -> None:
    data = text.encode()
    found = marked_spans(np.array(marks[: len(data)], dtype=bool))
    spans = [whole_words(data, start, end) for start, end in found]
    for (start, end), (first, last) in zip(spans, found, strict=True):
        assert first <= start <= end <= last
    spans = [span for span in spans if span[0] < span[1]]
    left = without_spans(data, spans).decode()
    stays = np.ones(len(data), dtype=bool)
    for start, end in spans:
        stays[start:end] = False
    kept = bytes(byte for byte, here in zip(data, stays, strict=True) if here).decode()
    assert "".join(left.split()) == "".join(kept.split())
    if not spans:
        assert left == text


def test_seams() -> None:
    def cut(text: str, part: str) -> str:
        data = text.encode()
        start = data.index(part.encode())
        return without_spans(data, [whole_words(data, start, start + len(part.encode()))]).decode()

    assert cut("One two three four.", "o three fo") == "One two four."
    assert cut("One.\n\nTwo and two.\n\nThree.", "Two and two.") == "One.\n\nThree."
    assert cut("One. Two.\nThree. Four.", "Two.\nThree.") == "One. Four."
    assert cut("One.\nTwo. Three.", "Two.") == "One.\nThree."
    assert cut("One two", "One ") == "two"
    assert cut("One two", " two") == "One"
    assert cut("漢字漢字", "字漢") == "漢字"
    assert cut("One", "One") == ""


def test_rows_are_exchanged_and_checked(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 2**63, (500, 2), dtype=np.uint64)
    parts = part_of(rows[:, 0], 3)
    for number, span in enumerate((slice(0, 200), slice(200, 500))):
        (tmp_path / str(number)).mkdir()
        write_parts(tmp_path / str(number) / "x.rows", rows[span], parts[span], 8)
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    for part in range(8):
        assert read_parts(folders, "x.rows", part, 2).tolist() == rows[parts == part].tolist()
        assert 30 < (parts == part).sum() < 100
    assert not part_of(rows[:, 0], 0).any()
    data = bytearray((tmp_path / "1" / "x.rows").read_bytes())
    data[-1] ^= 1
    (tmp_path / "1" / "x.rows").write_bytes(data)
    assert len(read_parts(folders, "x.rows", 0, 2))
    with pytest.raises(DamagedWork, match=r"1/x\.rows"):
        read_parts(folders, "x.rows", 7, 2)
    with pytest.raises(DamagedWork):
        read_parts(folders, "x.rows", 0, 2)


def test_ranges() -> None:
    assert [range_bits(rows) for rows in (0, 1, 2**22, 2**22 + 1, 2**30)] == [0, 0, 0, 1, 8]


class InProcess:
    """In place of the actor pool: one worker in this process."""

    def __init__(self, factory: Callable[[], Worker], placement: DataPlacement) -> None:
        self._worker = factory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def run(self, units: Sequence[Unit], work: Folder, progress: Progress, measure: str) -> list[UnitResult]:
        results = []
        for unit in units:
            folder = work / unit.name
            output = Path(folder.url)
            output.mkdir(parents=True)
            statistics = self._worker.run(unit, output)
            files = {path.name: sha256_file(path) for path in output.iterdir()}
            results.append(UnitResult(name=unit.name, folder=folder, files=files, statistics=statistics))
        return results


def corpus(bench: Bench, files: Sequence[Sequence[str]]) -> Artifact:
    def build(attempt: Attempt) -> dict[str, Any]:
        for number, texts in enumerate(files):
            documents = [
                TextDocument(
                    text=text, id=document_id("s", f"{number} {place}"), url="", source="s", language="en",
                    language_score=1.0,
                )
                for place, text in enumerate(texts)
            ]  # fmt: skip
            write_documents(attempt.output / f"documents/{number:05d}.parquet", documents)
        return {}

    return bench.run("deduplicate", {}, build)


def texts_of(artifact: Artifact) -> list[str]:
    return [document.text for file in document_files(artifact) for document in read_documents(file.path())]


def expected_spans(texts: Sequence[bytes], size: int) -> list[list[bool]]:
    """Of every text which bytes are repeated: by a dictionary of all windows."""
    first, at, marked = dict[bytes, int](), 0, []
    for text in texts:
        marks = [False] * len(text)
        for place in range(len(text) - size + 1):
            if at + place - first.setdefault(text[place : place + size], at + place) >= size:
                marks[place : place + size] = [True] * size
        marked.append(marks)
        at += len(text)
    return marked


def seen_by_the_stage(patch: pytest.MonkeyPatch) -> Iterator[list[list[bool]]]:
    """The bytes the stage's last phase takes for repeated, a row for each document."""
    seen: list[list[bool]] = []
    without = SubstringsWorker._without

    def watched(worker: Any, data: bytes, repeated: Any, counts: dict[str, int]) -> bytes | None:
        seen.append(repeated.tolist())
        return without(worker, data, repeated, counts)

    patch.setattr(SubstringsWorker, "_without", watched)
    yield seen


WORDS = [f"{a}{b}{c}" for a in "abc" for b in "xyz" for c in "lmn"]
PIECES = [" ".join(random.Random(n).choices(WORDS, k=8)) for n in range(5)] + ["é漢" * 9, "abc" * 12]
TEXT = st.lists(st.sampled_from([*PIECES, *WORDS]), max_size=5).map(" ".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(TEXT, max_size=4), min_size=1, max_size=4),
    st.sampled_from([1, 100, 10**6]),
    st.sampled_from([100, 10**6]),
    st.sampled_from([16, 17, 31]),
)  # fmt: skip
def test_repeated_bytes_are_those_of_all_windows(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]], block: int, part: int, length: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("store"))
    before = corpus(bench, [["The beginning is always there."], *files])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.substrings.ActorPool", InProcess)
        patch.setattr("pipelines.exchange.RANGE_ROWS", part)
        patch.setattr(repeats, "BLOCK_BYTES", block)
        patch.setattr(repeats, "_REJECTED_SAMPLE", 1.0)
        (seen,) = seen_by_the_stage(patch)
        config = Substrings(length=length)
        after = bench.run("substrings", {}, lambda attempt: substrings(config, before, attempt, ONE, NoProgress()))
    texts = texts_of(before)
    assert seen == expected_spans([text.encode() for text in texts], length)
    (row,) = after.statistics["funnel"]
    assert row["documents_in"] == len(texts)
    assert row["documents_out"] == len(texts_of(after)) == len(texts) - row["dropped"].get("repeated", 0)
    samples = [pq.read_table(after.path(name)) for name in after.names if name.startswith("rejected/")]
    assert sum(sample.num_rows for sample in samples) == row["dropped"].get("repeated", 0)
    assert row["bytes_out"] == sum(len(text.encode()) for text in texts_of(after))


ONE, TWO = DataPlacement(workers=1), DataPlacement(workers=2)
NOTICE = "This page is part of the handbook, which may be given to others under the terms of its licence. " * 3


def pages() -> list[list[str]]:
    """Three files of pages; most end with the same notice, some hold little else, some quote an earlier one."""
    files: list[list[str]] = [[], [], []]
    for number in range(18):
        own = [f"{word} {number}-{place}" for place, word in enumerate(random.Random(number).choices(WORDS, k=60))]
        text = " ".join(own)
        if number % 3:
            text = f"{text}\n\n{NOTICE.strip()}"
        if number in (7, 13):
            text = f"Short {number}.\n{NOTICE * 3}"
        files[number // 6].append(text)
    quoted = files[0][0]
    files[2][5] = f"{' '.join(prose('en', 1))}\n\n{quoted}\n\nSo it was."
    return files


def run_stage(bench: Bench, before: Artifact, config: Substrings, placement: DataPlacement, run: int) -> Artifact:
    return bench.run(
        "substrings", {"run": run}, lambda attempt: substrings(config, before, attempt, placement, NoProgress())
    )


def checksums(artifact: Artifact) -> dict[str, str]:
    return {name: sha256_file(artifact.path(name)) for name in artifact.names}


@pytest.mark.usefixtures("cluster")
def test_the_first_of_equal_stretches_stays(bench: Bench) -> None:
    before = corpus(bench, pages())
    first = run_stage(bench, before, Substrings(), ONE, 1)
    second = run_stage(bench, before, Substrings(), TWO, 2)

    def stopped(attempt: Attempt) -> dict[str, Any]:
        for _ in range(4):
            with contextlib.suppress(StageInterrupted):
                substrings(Substrings(), before, attempt, TWO, Interrupt())
        return substrings(Substrings(), before, attempt, ONE, NoProgress())

    third = bench.run("substrings", {"run": 3}, stopped)
    assert checksums(first) == checksums(second) == checksums(third)
    assert first.statistics == second.statistics == third.statistics

    texts, left = [text for file in pages() for text in file], texts_of(first)
    (row,) = first.statistics["funnel"]
    assert row["dropped"] == {"repeated": 2}
    assert sum(NOTICE.strip() in text for text in left) == 1
    assert texts[0] in left
    assert f"{' '.join(prose('en', 1))}\n\nSo it was." in left
    assert texts[2].split("\n\n")[0] in left
    assert first.statistics["cut_documents"] == first.statistics["cuts"] == 9
    dropped = sum(len(texts[number].encode()) for number in (7, 13))
    assert row["bytes_in"] - row["bytes_out"] == first.statistics["cut_bytes"] + dropped

    whole = run_stage(bench, before, Substrings(cut=False), ONE, 4)
    assert texts_of(whole) == [text for number, text in enumerate(texts) if number not in (7, 13)]
    assert whole.statistics["cuts"] == 0


def test_nothing_left_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.substrings.ActorPool", InProcess)
    before = corpus(bench, [["again " * 1000]])
    with pytest.raises(ValueError, match=r"no document is left without repeated text: 1 by substrings: repeated"):
        run_stage(bench, before, Substrings(), ONE, 1)


def test_paragraphs_that_are_not_repeated_stay_as_they_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.substrings.ActorPool", InProcess)
    texts = ["", "\n ".join(prose("de", 1)), " ab\r\n\u3000é ", "漢" * 60, "漢" * 60 + "字"]
    after = run_stage(bench, corpus(bench, [texts, []]), Substrings(), ONE, 1)
    assert texts_of(after) == texts


def test_refreshes_and_their_corpora_refuse_it() -> None:
    with pytest.raises(ValidationError, match=r"substrings: the tokens of a data\.corpus are made by its refreshes"):
        DataConfig(
            corpus=CorpusSnapshot(name="web", snapshot=1), substrings=Substrings(), tokenizer=Tokenizer(vocab_size=500)
        )
    with pytest.raises(ValidationError, match=r"substrings: a refresh reads new documents only"):
        RefreshConfig.model_validate({"name": "r", "corpus": "web", "substrings": {}})
