"""Components found in pieces are those that union-find has of all edges, in few rounds, whatever their shape."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed import Inline, attempt_at, unit_result

from illada.artifacts import NoProgress
from pipelines.blocks import Blocks
from pipelines.components import connect, link
from pipelines.exchange import read_parts
from pipelines.minhash import clusters
from pipelines.phases import Phases

Edge = tuple[int, int]


@pytest.fixture(scope="module")
def pool() -> Inline:
    return Inline()


def components(pool: Inline, root: Path, edges: Sequence[Edge], blocks: Blocks, bits: int) -> list[int]:
    """The least node of each node's component, in units that have the edges of their block's greater nodes."""
    pool.units.clear()
    linked = []
    for block in range(blocks.count):
        own = [(min(edge), max(edge)) for edge in edges if max(edge) >> blocks.bits == block and edge[0] != edge[1]]
        folder = root / f"linked-{block}"
        folder.mkdir()
        link(np.array(own, dtype=np.uint64).reshape(-1, 2), {"block": block, "bits": bits}, folder)
        linked.append(unit_result(str(block), folder, {}))
    found = connect(Phases(pool, attempt_at(root / "at"), NoProgress()), linked, len(edges), bits, blocks.shape())
    labels = list(range(blocks.documents))
    for block in range(blocks.count):
        for node, label in read_parts([str(result.folder) for result in found], "labels.rows", block, 2).tolist():
            assert node >> blocks.bits == block
            labels[node] = label
    return labels


def expected(edges: Sequence[Edge], count: int) -> list[int]:
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    least: list[int] = clusters(count, [(pairs[:, 0], pairs[:, 1])]).tolist()
    return least


def rounds(pool: Inline) -> int:
    """How many operations there were."""
    return sum(unit.payload["task"] == "star" and unit.payload["block"] == 0 for unit in pool.units)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 23)), max_size=24), st.integers(1, 4), st.integers(0, 2))
def test_components_are_those_of_all_edges(
    tmp_path_factory: pytest.TempPathFactory, pool: Inline, edges: list[Edge], block_bits: int, bits: int
) -> None:
    root = tmp_path_factory.mktemp("graph")
    assert components(pool, root, edges, Blocks(documents=24, bits=block_bits), bits) == expected(edges, 24)


def shapes(count: int) -> dict[str, list[Edge]]:
    """Trees over all nodes, numbered at random so that the pieces that units begin with are small."""
    draw = random.Random(0)
    names = draw.sample(range(count), count)
    tree = [(names[node], names[draw.randrange(max(0, node - 3), node)]) for node in range(1, count)]
    return {
        "chain": [(names[node], names[node + 1]) for node in range(count - 1)],
        "sorted chain": [(node, node + 1) for node in range(count - 1)],
        "hub": [(names[0], names[node]) for node in range(1, count)],
        "tree": tree,
        "pairs": [(names[node], names[node + 1]) for node in range(0, count - 1, 2)],
    }


@pytest.mark.parametrize("shape", shapes(2))
def test_rounds_are_logarithmic(tmp_path: Path, pool: Inline, shape: str) -> None:
    count, edges = 4000, shapes(4000)[shape]
    assert components(pool, tmp_path, edges, Blocks(documents=count, bits=10), 1) == expected(edges, count)
    assert rounds(pool) <= 2 * math.log2(count)
