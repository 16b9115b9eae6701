"""Units that decide about a block of documents; see `pipelines.fates` for their order.

What is equal within a block they find themselves, so that other units get each key once from each block.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.config import Deduplicate
from pipelines.blocks import Fate, column
from pipelines.components import contract, link, starts
from pipelines.exchange import UInts, part_of, read_parts, shared_folders, unit_path, write_parts
from pipelines.index import DIGESTS, URLS, band_table, prefixes
from pipelines.minhash import first_of_each

Fates = npt.NDArray[np.uint8]
DUPLICATE = {DIGESTS: Fate.DUPLICATE, URLS: Fate.DUPLICATE_URL}
KNOWN = {DIGESTS: Fate.KNOWN_DUPLICATE, URLS: Fate.KNOWN_DUPLICATE_URL}
NOBODY = np.uint64(2**64 - 1)
"""Stays of a cluster that goes whole."""


def send_keys(config: Deduplicate, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`keys.rows`: (key, key, precedence, position) of the first with each digest, or address, of those left."""
    table, bits = payload["table"], payload["bits"]
    fates = _fates_so_far(payload)
    left = fates == Fate.KEPT
    if table == URLS:
        left &= column(payload, "located", config)
    asking = np.flatnonzero(left)
    precedence = column(payload, "precedence", config)
    asking = asking[np.argsort(precedence[asking], kind="stable")]
    keys = column(payload, table, config)
    first = first_of_each(keys[asking]) == np.arange(len(asking))
    fates[asking[~first]] = DUPLICATE[table]
    chosen = np.sort(asking[first])
    rows = np.column_stack([keys[chosen], _bits(precedence[chosen]), _positions(payload, chosen)])
    write_parts(output / "keys.rows", rows, prefixes(rows[:, 0], bits), 2**bits)
    np.save(output / "fates.npy", fates)
    return {"rows": len(rows)}


def send_bands(config: Deduplicate, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`band-00.rows` ...: (key, key, position) of the first with each key of a band, of those left that have any.

    The others are linked to it in `links.npy`: (first, other), as stars.
    """
    fates = _fates_so_far(payload)
    asking = np.flatnonzero((fates == Fate.KEPT) & column(payload, "comparable", config))
    positions, bands, bits = _positions(payload, asking), column(payload, "bands", config), payload["bits"]
    links = [np.empty((0, 2), dtype=np.uint64)]
    for band in range(config.bands):
        keys = bands[asking, band]
        first = first_of_each(keys)
        new = first == np.arange(len(asking))
        links.append(np.stack([positions[first[~new]], positions[~new]], axis=1))
        rows = np.column_stack([keys[new], positions[new]])
        write_parts(output / f"{band_table(band)}.rows", rows, prefixes(rows[:, 0], bits), 2**bits)
    stars = contract(np.concatenate(links))
    np.save(output / "links.npy", stars)
    np.save(output / "fates.npy", fates)
    return {"links": len(stars)}


def link_block(config: Deduplicate, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """The links of a block's documents to earlier ones; see `pipelines.components.link`."""
    edges = read_parts(shared_folders(payload["links"]), "links.rows", payload["block"], 2)
    stars = link(np.concatenate([np.load(unit_path(payload["own"])), edges]), payload, output)
    return {"across": int((stars[:, 0] < np.uint64(payload["begin"])).sum())}


def send_clusters(config: Deduplicate, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`clusters.rows`: (cluster, precedence, position, seen) of the best document the block has in each cluster.

    `seen` is whether the corpus has seen one like any of the block's. `members.npy` are (position, cluster) of all.
    """
    fates = np.load(unit_path(payload["fates"]))
    members = read_parts(shared_folders(payload["labels"]), "labels.rows", payload["block"], 2)
    places = (members[:, 0] - np.uint64(payload["begin"])).astype(np.int64)
    seen = np.zeros(len(fates), dtype=bool)
    if payload["indexed"]:
        found = read_parts(shared_folders(payload["links"]), "seen.rows", payload["block"], 1)[:, 0]
        seen[(found - np.uint64(payload["begin"])).astype(np.int64)] = True
    alone = seen.copy()
    alone[places] = False
    fates[alone] = Fate.KNOWN_NEAR_DUPLICATE
    precedence = column(payload, "precedence", config)[places]
    order = np.lexsort((members[:, 0], precedence, members[:, 1]))
    new = starts(members[order, 1])
    first = order[new]
    any_seen = np.logical_or.reduceat(seen[places[order]], np.flatnonzero(new)) if len(order) else new
    rows = np.column_stack([members[first, 1], _bits(precedence[first]), members[first, 0], any_seen.astype(np.uint64)])
    write_parts(output / "clusters.rows", rows, part_of(rows[:, 0], payload["bits"]), 2 ** payload["bits"])
    np.save(output / "members.npy", members)
    np.save(output / "fates.npy", fates)
    return {"clusters": len(rows)}


def settle(config: Deduplicate, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`fates.npy` [documents of the block], as they are in the end; returns documents and bytes by fate."""
    fates: Fates = np.load(unit_path(payload["fates"]))
    members: UInts = np.load(unit_path(payload["members"]))
    stays = read_parts(shared_folders(payload["stays"]), "stays.rows", payload["block"], 2)
    stays = stays[np.argsort(stays[:, 0])]
    who = stays[np.searchsorted(stays[:, 0], members[:, 1]), 1]
    places = (members[:, 0] - np.uint64(payload["begin"])).astype(np.int64)
    fates[places[who == NOBODY]] = Fate.KNOWN_NEAR_DUPLICATE
    fates[places[(who != NOBODY) & (who != members[:, 0])]] = Fate.NEAR_DUPLICATE
    np.save(output / "fates.npy", fates)
    sizes = column(payload, "sizes", config)
    return {
        "documents": [int((fates == fate).sum()) for fate in Fate],
        "bytes": [int(sizes[fates == fate].sum()) for fate in Fate],
    }


def _fates_so_far(payload: Mapping[str, Any]) -> Fates:
    """What the unit of the block before this one left, and what the ranges found since."""
    if "fates" not in payload:
        return np.full(payload["end"] - payload["begin"], Fate.KEPT, dtype=np.uint8)
    fates: Fates = np.load(unit_path(payload["fates"]))
    lost = read_parts(shared_folders(payload["lost"]), "lost.rows", payload["block"], 2)
    fates[(lost[:, 0] - np.uint64(payload["begin"])).astype(np.int64)] = lost[:, 1]
    return fates


def _positions(payload: Mapping[str, Any], places: npt.NDArray[np.int64]) -> UInts:
    return places.astype(np.uint64) + np.uint64(payload["begin"])


def _bits(precedence: npt.NDArray[np.float64]) -> UInts:
    """As they are sent; `np.float64` again by a view."""
    return np.ascontiguousarray(precedence).view(np.uint64)
