"""Connected components of a graph of which no process holds all edges, or all edges of a node.

The alternating algorithm of Kiveris et al., "Connected components in MapReduce and beyond" (SoCC 2014): the large-star
operation links every greater neighbour of a node to the node's least neighbour, the small-star operation every smaller
one. Each of them turns an edge {a, b}, a < b, into one edge, given the least neighbour p that a node has below it (or
is itself): {p(a), b} by the large star, {p(b), a} or, when a = p(b), {a, b} by the small one. So edges stay with the
unit that has them, and units exchange a row for each of their nodes: what they know of its least neighbour, and the
least that any unit knows. When neither operation changes an edge, every component is a star around its least node; the
paper shows that to come after O(log^2 nodes) rounds. Nodes are exchanged by hash, so a node that all others are linked
to costs no more than a row for each unit.

Edges are arrays [n, 2] of uint64, each edge once, the smaller node first, in the order of the greater one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.exchange import UInts, part_of, read_parts, shared_folders, unit_file, unit_path, write_parts
from pipelines.minhash import clusters
from pipelines.phases import Phases
from pipelines.pool import Results


def connect(phases: Phases, linked: Results, across: int, bits: int, shape: Mapping[str, int]) -> Results:
    """Find the components of the edges that units of task `link` have, one for each block of nodes.

    Args:
        across: how many of these edges have their nodes in two blocks; the others are stars as they are.
        bits: nodes are exchanged in 2**bits ranges.
        shape: of the blocks of nodes, see `pipelines.blocks`.

    Returns results with files `labels.rows`: (node, its component's least node) for each node with an edge, by block.
    """
    still, turn = 0, 0
    while across and still < 2:
        sources = [
            {"source": phases.folders(f"stars-{turn}", linked), "part": part, **shape} for part in range(2**bits)
        ]
        least = phases.folders(f"least-{turn}", phases.run(f"least-{turn}", "least", sources))
        units = [
            {"edges": unit_file(result, "edges.npy"), "least": least, "large": turn % 2 == 0, "block": n, "bits": bits}
            for n, result in enumerate(linked)
        ]
        turn += 1
        linked = phases.run(f"stars-{turn}", "star", units, [1.0] * len(units))
        still = 0 if any(result.statistics["changed"] for result in linked) else still + 1
    source = phases.folders("stars", linked)
    return phases.run("labels", "labels", [{"source": source, "part": part, **shape} for part in range(2**bits)])


def link(edges: UInts, payload: Mapping[str, Any], output: Path) -> UInts:
    """Begin with edges [n, 2] in any order: the unit's own components as stars, which it leaves for task `star`."""
    stars = contract(edges)
    _leave(stars, payload, output)
    return stars


def star(payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A unit: `edges.npy` after an operation, and what is known of their nodes then."""
    before: UInts = np.load(unit_path(payload["edges"]))
    least = read_parts(shared_folders(payload["least"]), "least.rows", payload["block"], 2)
    after = rewire(before, least, payload["large"])
    _leave(after, payload, output)
    return {"changed": int(not np.array_equal(before, after))}


def least(payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A unit: `least.rows`: (node, its least neighbour) for the units that know a greater one only."""
    nodes, known, units, _, lowest = _by_node(payload)
    news = lowest < known
    write_parts(output / "least.rows", np.stack([nodes, lowest], axis=1)[news], units[news], payload["blocks"])
    return {"rows": int(news.sum())}


def labels(payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A unit, when components are stars: `labels.rows`: (node, least node of its component), by block."""
    nodes, _, _, new, lowest = _by_node(payload)
    rows = np.stack([nodes, lowest], axis=1)[new]
    write_parts(output / "labels.rows", rows, rows[:, 0] >> np.uint64(payload["block_bits"]), payload["blocks"])
    return {"nodes": len(rows)}


def contract(edges: UInts) -> UInts:
    """Edges [n, 2] in any order, as stars around the least node of each component."""
    nodes, places = np.unique(edges, return_inverse=True)
    places = places.reshape(-1, 2)
    roots = clusters(len(nodes), [(places[:, 0], places[:, 1])])
    leaves = np.flatnonzero(roots != np.arange(len(nodes)))
    return np.stack([nodes[roots[leaves]], nodes[leaves]], axis=1)


def known_least(edges: UInts) -> tuple[UInts, UInts]:
    """The nodes of `edges` in ascending order, and the least neighbour below each, or itself where none is."""
    smaller, greater = edges[:, 0], edges[:, 1]
    new = starts(greater)
    nodes, below = greater[new], np.minimum.reduceat(smaller, np.flatnonzero(new)) if len(edges) else smaller
    lowest = np.setdiff1d(smaller, nodes)
    order = np.argsort(together := np.concatenate([nodes, lowest]))
    return together[order], np.concatenate([below, lowest])[order]


def rewire(edges: UInts, news: UInts, large: bool) -> UInts:
    """Edges after the large star, or the small one; `news` [n, 2] are least neighbours they do not have themselves."""
    nodes, lowest = known_least(edges)
    lowest[np.searchsorted(nodes, news[:, 0])] = news[:, 1]
    smaller, greater = edges[:, 0], edges[:, 1]
    if large:
        smaller = lowest[np.searchsorted(nodes, smaller)]
    else:
        least_below = lowest[np.searchsorted(nodes, greater)]
        smaller, greater = least_below, np.where(least_below == smaller, greater, smaller)
    order = np.lexsort((smaller, greater))
    after = np.stack([smaller, greater], axis=1)[order]
    new = np.ones(len(after), dtype=bool)
    new[1:] = (after[1:] != after[:-1]).any(axis=1)
    return after[new]


def starts(ordered: UInts) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where another value begins in an ordered array."""
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return new


def _leave(edges: UInts, payload: Mapping[str, Any], output: Path) -> None:
    np.save(output / "edges.npy", edges)
    nodes, lowest = known_least(edges)
    rows = np.stack([nodes, lowest, np.full_like(nodes, payload["block"])], axis=1)
    write_parts(output / "nodes.rows", rows, part_of(nodes, payload["bits"]), 2 ** payload["bits"])


def _by_node(payload: Mapping[str, Any]) -> tuple[UInts, UInts, UInts, Any, UInts]:
    """Rows (node, least known, unit) of a range ordered by node; where a node begins; the least that any unit knows."""
    rows = read_parts(shared_folders(payload["source"]), "nodes.rows", payload["part"], 3)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    nodes, known, units = rows.T
    new = starts(nodes)
    lowest = np.minimum.reduceat(known, np.flatnonzero(new)) if len(rows) else known
    return nodes, known, units, new, lowest[np.cumsum(new) - 1]
