"""Units that decide about a range of keys or of clusters over all blocks; see `pipelines.fates` for their order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.block_units import DUPLICATE, KNOWN, NOBODY
from pipelines.blocks import block_of
from pipelines.components import starts
from pipelines.exchange import UInts, read_parts, shared_folders, write_parts
from pipelines.index import Mask, SignatureIndex, band_table, sort_keys
from pipelines.minhash import first_of_each


def find_equals(index: SignatureIndex | None, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`lost.rows`: (position, fate) of all but the first with each key, and of those whose key is known, by block."""
    table = payload["table"]
    rows = read_parts(shared_folders(payload["source"]), "keys.rows", payload["part"], 4)
    rows = rows[np.argsort(_floats(rows[:, 2]), kind="stable")]  # they came in the order of positions
    first = first_of_each(rows[:, :2]) == np.arange(len(rows))
    fates = np.where(first, 0, np.uint64(DUPLICATE[table]))
    fresh = {}
    if index is not None:
        known, fresh[table] = _look_up(index, table, rows[first, :2], payload, output)
        fates[np.flatnonzero(first)[known]] = KNOWN[table]
    lost = np.stack([rows[:, 3], fates], axis=1)[fates > 0]
    write_parts(output / "lost.rows", lost, block_of(lost[:, 0], payload), payload["blocks"])
    return {"lost": len(lost), "fresh": fresh}


def find_links(index: SignatureIndex | None, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`links.rows`: (first, other) of positions with one key of a band, by the other's block.

    With an index also `seen.rows`: (position) of one with each known key, by block. For one band or several.
    """
    links, seen = [np.empty((0, 2), dtype=np.uint64)], [np.empty(0, dtype=np.uint64)]
    fresh = {}
    for band in payload["bands"]:
        table = band_table(band)
        rows = read_parts(shared_folders(payload["source"]), f"{table}.rows", payload["part"], 3)
        first = first_of_each(rows[:, :2])
        new = first == np.arange(len(rows))
        links.append(np.stack([rows[first[~new], 2], rows[~new, 2]], axis=1))
        if index is not None:
            known, fresh[table] = _look_up(index, table, rows[new, :2], payload, output)
            seen.append(rows[new, 2][known])
    found = np.concatenate(links)
    write_parts(output / "links.rows", found, block_of(found[:, 1], payload), payload["blocks"])
    if index is not None:
        marked = np.unique(np.concatenate(seen))
        write_parts(output / "seen.rows", marked[:, None], block_of(marked, payload), payload["blocks"])
    return {"links": len(found), "fresh": fresh}


def choose(payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`stays.rows`: (cluster, its best document, or nobody where the corpus has seen one), by block that asks."""
    rows = read_parts(shared_folders(payload["source"]), "clusters.rows", payload["part"], 4)
    rows = rows[np.lexsort((rows[:, 2], _floats(rows[:, 1]), rows[:, 0]))]
    new = starts(rows[:, 0])
    stays = rows[new, 2]
    if len(rows):
        stays[np.bitwise_or.reduceat(rows[:, 3], np.flatnonzero(new)) > 0] = NOBODY
    answers = np.stack([rows[:, 0], stays[np.cumsum(new) - 1]], axis=1)
    write_parts(output / "stays.rows", answers, block_of(rows[:, 2], payload), payload["blocks"])
    return {"clusters": len(stays)}


def _look_up(
    index: SignatureIndex, table: str, rows: UInts, payload: Mapping[str, Any], output: Path
) -> tuple[Mask, int]:
    """Which of `rows` [n, 2] the index has, and how many it has not; those are in `<table>.npy`, sorted."""
    keys, places = sort_keys(rows)
    known = index.known(table, payload["bits"], payload["part"], keys)
    np.save(output / f"{table}.npy", keys[:, ~known])
    return known[places], int((~known).sum())


def _floats(bits: UInts) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(bits).view(np.float64)
