"""Decisions in pieces: equal to those of one process, and no piece grows with the corpus or with what shares a key."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from signed import BANDS, CONFIG, Inline, Signed, attempt_at, decide

from illada.config import Deduplicate
from pipelines import exchange
from pipelines.blocks import BLOCK_BITS, Blocks, Fate, columns
from pipelines.exchange import RANGE_ROWS, range_bits
from pipelines.minhash import clusters


def in_memory(documents: list[Signed]) -> list[int]:
    """Who stays, by dictionaries and union-find over all documents, best first."""
    order = sorted(range(len(documents)), key=lambda number: (documents[number].precedence, number))
    for key in (lambda one: one.text, lambda one: one.url):
        found: dict[Any, int] = {}
        order = [n for n in order if (value := key(documents[n])) is None or found.setdefault(value, n) == n]
    links = []
    for band in range(BANDS):
        first: dict[int, int] = {}
        for rank, number in enumerate(order):
            if documents[number].comparable:
                links.append((first.setdefault(documents[number].bands[band], rank), rank))
    pairs = np.array(links).reshape(-1, 2)
    roots = clusters(len(order), [(pairs[:, 0], pairs[:, 1])])
    return sorted(number for rank, number in enumerate(order) if roots[rank] == rank)


def corpus(count: int, values: int) -> list[Signed]:
    draw = random.Random(values)
    return [
        Signed(
            draw.randrange(2 * count),
            tuple(draw.randrange(values) for _ in range(BANDS)),
            draw.random() < 0.9,
            draw.choice([None, draw.randrange(2 * count)]),
            draw.choice([0.0, 1.0, 2.0, float("inf")]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(("values", "bits", "range_rows"), [(2000, 18, 2**22), (2000, 8, 500), (6000, 9, 800)])
def test_pieces_decide_as_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int, bits: int, range_rows: int
) -> None:
    monkeypatch.setattr("pipelines.exchange.RANGE_ROWS", range_rows)
    documents = corpus(3000, values)
    fates, _ = decide(documents, Inline(), attempt_at(tmp_path / "at"), None, bits)
    kept = [number for number, fate in enumerate(fates) if fate is Fate.KEPT]
    assert kept == in_memory(documents)
    assert 300 < len(kept) < 2700


SAME: dict[str, list[Signed]] = {
    "text": [Signed(0, (0, 0, 0)) for _ in range(800)],
    "address": [Signed(number, (number,) * BANDS, url=0) for number in range(800)],
    "band": [Signed(number, (0, number, number)) for number in range(800)],
    "chain": [Signed(number, (number // 2, (number + 1) // 2, 0)) for number in range(800)],
    "nothing": [Signed(number, (number,) * BANDS) for number in range(800)],
}


@pytest.mark.parametrize("shared", SAME)
def test_what_a_unit_reads_is_bounded_whatever_all_documents_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    blocks, range_rows = Blocks(documents=800, bits=6), 100
    monkeypatch.setattr("pipelines.exchange.RANGE_ROWS", range_rows)
    read: dict[str, int] = {}

    def counting(folders: Iterable[str], name: str, part: int, width: int) -> Any:
        rows = exchange.read_parts(folders, name, part, width)
        read[name] = max(read.get(name, 0), len(rows))
        return rows

    for module in ("block_units", "range_units", "components"):
        monkeypatch.setattr(f"pipelines.{module}.read_parts", counting)
    fates, _ = decide(SAME[shared], Inline(), attempt_at(tmp_path / "at"), None, blocks.bits)
    assert fates.count(Fate.KEPT) == (800 if shared == "nothing" else 1)
    of_block = {"lost.rows": 1, "labels.rows": 1, "stays.rows": 1, "links.rows": BANDS, "least.rows": BANDS + 1}
    for name, rows in read.items():
        a_block = of_block.get(name, 0) * 2**blocks.bits
        assert rows <= (a_block or 2 * range_rows + blocks.count), name


def test_bytes_of_a_process_at_ten_billion_documents() -> None:
    """12 trillion tokens at 1,200 a document. The figures of docs/curation.md."""
    documents, config = 10_000_000_000, Deduplicate()
    bits = range_bits(documents)
    blocks = Blocks(documents=documents, bits=BLOCK_BITS)
    assert (2**bits, blocks.count) == (4096, 38147)
    of_row = {name: np.dtype(dtype).itemsize * int(np.prod(shape)) for name, (dtype, shape) in columns(config).items()}
    assert of_row["bands"] == 224
    range_bytes = (documents / 2**bits + blocks.count) * 4 * 8  # key, key, precedence, position
    assert range_bytes < RANGE_ROWS * 32 == 2**27
    assert 79e6 < range_bytes < 80e6
    links = config.bands * 2**BLOCK_BITS * 2 * 8
    assert of_row["bands"] * 2**BLOCK_BITS == links == 58_720_256
    # of the whole corpus a unit reads no more than the addresses of the phase before, and the driver has no more
    units = max(blocks.count, config.bands * 2**bits)
    assert units == 57344
    assert units * 200 < 12e6
    assert CONFIG.bands == BANDS
