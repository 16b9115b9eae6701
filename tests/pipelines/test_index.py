"""The signature index: the same documents are kept as by deduplicating everything together, at the cost of the new."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signed import BANDS, CONFIG, DOCUMENTS, Inline, Signed, attempt_at, decide
from text_bench import Bench

from illada.artifacts import Artifact, ArtifactError, Attempt, NoProgress, StageIdentity, Store
from illada.config import DataPlacement, Deduplicate
from pipelines.blocks import Fate
from pipelines.deduplicate import deduplicate
from pipelines.documents import TextDocument, document_files, document_id, read_documents, write_documents
from pipelines.index import (
    KEY_BYTES,
    SignatureIndex,
    contains,
    index_bytes,
    key_config,
    lower_bound,
    open_index,
    part_bits,
    sort_keys,
)
from pipelines.known import extend_index
from pipelines.phases import Phases

Words = npt.NDArray[np.uint64]


class Corpus:
    """Refreshes one after another, each with its index as an artifact."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "store")
        self.index = SignatureIndex(config=key_config(CONFIG))
        self.count = 0

    def refresh(self, documents: Sequence[Signed]) -> list[bool]:
        """Which of `documents` are kept."""
        self.count += 1
        identity = StageIdentity(stage="deduplicate", version=1, config={"number": self.count}, inputs={})
        with self.store.attempt(identity) as attempt:
            pool = Inline(self.index)
            fates, decision = decide(documents, pool, attempt, self.index, bits=2)
            phases = Phases(pool, attempt, NoProgress())
            statistics = extend_index(self.index, decision.fresh, len(documents), phases, attempt)
            artifact = self.store.publish(attempt, statistics, {}, 0.0)
        self.index = open_index(artifact, self.store)
        assert statistics["segments"] == len(self.index.segments)
        return [fate is Fate.KEPT for fate in fates]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.integers(4, 40))
def test_kept_as_if_everything_were_deduplicated_together(
    tmp_path_factory: pytest.TempPathFactory, refreshes: list[list[Signed]], part_rows: int
) -> None:
    """And what the corpus has seen took precedence. Few values make for chains joined by dropped documents."""
    root = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.index.PART_ROWS", part_rows)
        corpus, everything = Corpus(root), list[Signed]()
        for number, documents in enumerate(refreshes):
            kept = corpus.refresh(documents)
            # infinite ones stay the last of their refresh
            everything += [replace(one, precedence=10 * number + min(one.precedence, 9)) for one in documents]
            together, _ = decide(everything, Inline(), attempt_at(root / f"all-{number}"), None)
            assert kept == [fate is Fate.KEPT for fate in together[len(everything) - len(documents) :]]


def test_a_chain_of_new_documents_that_ends_at_a_dropped_old_one_goes_whole(tmp_path: Path) -> None:
    corpus, old = Corpus(tmp_path), [Signed(0, (0, 0, 0)), Signed(1, (0, 1, 1))]
    assert corpus.refresh(old) == [True, False]
    chain = [Signed(2, (2, 2, 2)), Signed(3, (3, 2, 3)), Signed(4, (4, 4, 3)), Signed(5, (5, 4, 1))]
    assert corpus.refresh([*chain[:3], Signed(9, (9, 9, 9))]) == [True, False, False, True]
    assert Corpus(tmp_path / "other").refresh(chain) == [True, False, False, False]
    again = Corpus(tmp_path / "again")
    again.refresh(old)
    assert again.refresh(chain) == [False] * 4, "its end shares a band with document 1, which was not kept"


def test_few_segments_however_many_refreshes(tmp_path: Path) -> None:
    corpus, rewritten = Corpus(tmp_path), 0
    for number in range(40):
        before = corpus.index
        size = 1 + number % 3
        corpus.refresh([Signed(100 * number + i, (100 * number + i,) * BANDS) for i in range(size)])
        sizes = [segment.documents for segment in corpus.index.segments]
        assert all(larger > 2 * smaller for larger, smaller in itertools.pairwise(sizes))
        assert len(sizes) <= 1 + math.log2(sum(sizes))
        rewritten += sum(old.documents for old in before.segments if old not in corpus.index.segments)
    assert sum(sizes) == corpus.index.documents == sum(1 + number % 3 for number in range(40))
    assert rewritten < sum(sizes) * math.log2(sum(sizes)), "every document is merged a logarithmic number of times"


class Counted:
    """Words of a memory map that count how many of them are read."""

    def __init__(self, words: Words) -> None:
        self.words, self.reads = words, 0

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, places: npt.NDArray[np.int64]) -> Words:
        self.reads += len(places)
        return self.words[places]


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000])
def test_a_lookup_reads_log_of_the_index(size: int) -> None:
    rng = np.random.default_rng(0)
    old, _ = sort_keys(rng.integers(0, 2**63, (size, 2), dtype=np.uint64))
    wanted, _ = sort_keys(np.concatenate([old.T[:: max(1, size // 50)], rng.integers(0, 2**63, (50, 2), np.uint64)]))
    high, low = Counted(old[0]), Counted(old[1])
    found = contains(high, low, wanted)
    present = set(map(tuple, old.T.tolist()))
    assert found.tolist() == [tuple(key) in present for key in wanted.T.tolist()]
    most = wanted.shape[1] * (math.ceil(math.log2(size + 1)) + 2)
    assert high.reads + low.reads <= most


def test_lower_bound() -> None:
    words = np.array([1, 1, 4, 4, 9], dtype=np.uint64)
    wanted = np.arange(11, dtype=np.uint64)
    assert lower_bound(words, wanted).tolist() == np.searchsorted(words, wanted).tolist()


def test_what_an_index_of_twelve_billion_documents_costs() -> None:
    """The figures of docs/refresh.md."""
    documents, bands = 12_000_000_000, 14
    assert KEY_BYTES * (bands + 1) == 240
    assert index_bytes(documents, bands) == 2_880_000_000_000
    bits = part_bits(documents)
    assert 2**bits == 1024
    assert documents * KEY_BYTES / 2**bits == pytest.approx(188e6, rel=0.01)


TWO = DataPlacement(workers=2, cpus_per_worker=1)


def texts(numbers: Sequence[int], source: str) -> list[TextDocument]:
    found = []
    for number in numbers:
        draw = random.Random(number)
        text = " ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(150))
        identity = document_id(source, str(number))
        found.append(TextDocument(text=text, id=identity, url="", source=source, language="en", language_score=1.0))
    return found


def near(document: TextDocument) -> TextDocument:
    """The same text but for a word, from elsewhere."""
    words = document.text.split()
    text = " ".join([*words[:-1], words[-1] + "x"])
    return TextDocument(
        text=text, id=document_id("near", document.id), url="", source="near", language="en", language_score=1.0
    )


@pytest.mark.usefixtures("cluster")
def test_the_stage_keeps_of_new_documents_what_it_would_keep_of_all(bench: Bench) -> None:
    old = texts(range(8), "old")
    new = [*texts(range(100, 106), "new"), *texts(range(2), "copy"), near(old[3]), near(old[4])]
    new += [near(new[0]), near(near(old[5]))]
    config = Deduplicate()

    def curated(name: str, documents: list[TextDocument]) -> Artifact:
        def build(attempt: Attempt) -> dict[str, Any]:
            if documents:
                write_documents(attempt.output / "documents/00000.parquet", documents)
            return {}

        return bench.run("curate", {"name": name}, build)

    def ids(artifact: Artifact) -> list[str]:
        return [document.id for file in document_files(artifact) for document in read_documents(file.path())]

    def run(name: str, documents: list[TextDocument], index: SignatureIndex | None) -> Artifact:
        source = curated(name, documents)
        return bench.run(
            "deduplicate", {"name": name}, lambda a: deduplicate(config, source, a, TWO, NoProgress(), index)
        )

    everything = run("all", [*old, *new], None)
    empty = SignatureIndex(config=key_config(config))
    first = run("old", old, empty)
    second = run("new", new, open_index(first, bench.store))
    assert ids(first) + ids(second) == ids(everything)
    assert ids(second) == [document.id for document in new[:6]]
    exact, close = second.statistics["funnel"]
    assert exact["dropped"] == {"known_duplicate": 2}
    assert close["dropped"] == {"known_near_duplicate": 3, "near_duplicate": 1}
    assert second.statistics["index"]["documents"] == 20
    assert second.statistics["index"] == {"documents": 20, "segments": 1, "merged": 1, **sized(second)}

    nothing = run("nothing", new, open_index(second, bench.store))
    assert ids(nothing) == []
    assert run("none", [], open_index(second, bench.store)).statistics["index"]["documents"] == 20
    with pytest.raises(ArtifactError, match=r"has no signature index \(index\.json\)"):
        open_index(everything, bench.store)


def sized(artifact: Artifact) -> dict[str, int]:
    """Bytes of keys in the artifact's parts, without the files' heads."""
    parts = [file for file in artifact.record["files"] if file["name"].startswith("index/")]
    return {"bytes": sum(np.load(artifact.path(file["name"])).nbytes for file in parts)}
