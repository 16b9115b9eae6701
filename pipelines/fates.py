"""What becomes of each document, decided over the keys of all: equal texts, equal addresses, near-duplicates.

All is done in order of precedence, so that the first of a group is the one to keep. Each step looks only at what the
one before it has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.config import Deduplicate
from pipelines.index import DIGESTS, URLS, band_table
from pipelines.known import Lookups
from pipelines.ledger import UnitResult

Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """Masks over the documents, in the order they came, by step and reason: whom that reason has left.

    Steps and reasons are in the order they apply, and each mask is a subset of the one before.
    """

    steps: Mapping[str, Mapping[str, Mask]]

    @property
    def kept(self) -> Mask:
        """Whom all reasons have left."""
        return self.steps["near"]["near_duplicate"]


def columns(config: Deduplicate) -> dict[str, tuple[type[Any], tuple[int, ...]]]:
    """Type and shape of a document's row in each of the arrays that decide.

    Those are the text's size (bytes), its digest, its precedence (the least stays), whether it has a signature and the
    keys of its bands; where addresses count, whether it has one, and its key. Keys are high and low words.
    """
    addresses: dict[str, tuple[type[Any], tuple[int, ...]]] = {"located": (np.bool_, ()), "urls": (np.uint64, (2,))}
    return {
        "sizes": (np.int64, ()),
        "digests": (np.uint64, (2,)),
        "precedence": (np.float64, ()),
        "comparable": (np.bool_, ()),
        "bands": (np.uint64, (config.bands, 2)),
        **(addresses if config.urls else {}),
    }


def decide(signed: Iterable[UnitResult], config: Deduplicate, lookups: Lookups | None) -> Fates:
    """The fate of every document by its row in `columns`; `signed`, which is read several times, has them by file."""
    order = np.argsort(gather(signed, config, "precedence"), kind="stable")
    every = np.ones(len(order), dtype=bool)
    first, left = _equals(DIGESTS, gather(signed, config, "digests")[order], every, every, lookups)
    steps = {"exact": {"duplicate": first, "known_duplicate": left}}
    if config.urls:
        located, keys = (gather(signed, config, name)[order] for name in ("located", "urls"))
        first, left = _equals(URLS, keys, left, located, lookups)
        steps["url"] = {"duplicate_url": first, "known_duplicate_url": left}
    fresh, left = _nears(signed, config, order, left, lookups)
    steps["near"] = {"known_near_duplicate": fresh, "near_duplicate": left}
    for step in steps.values():
        for reason, mask in step.items():
            step[reason] = np.empty_like(mask)
            step[reason][order] = mask
    return Fates(steps=steps)


def gather(signed: Iterable[UnitResult], config: Deduplicate, name: str) -> npt.NDArray[Any]:
    """A column of all documents."""
    dtype, shape = columns(config)[name]
    return np.concatenate([np.empty((0, *shape), dtype), *(np.load(r.path(f"{name}.npy")) for r in signed)])


def _equals(table: str, keys: Keys, left: Mask, having: Mask, lookups: Lookups | None) -> tuple[Mask, Mask]:
    """Who of `left` remains when of those `having` equal keys the first stays, and then none the corpus has seen."""
    from pipelines.minhash import first_of_each

    asking = np.flatnonzero(left & having)
    is_first = first_of_each(keys[asking]) == np.arange(len(asking))
    first = left.copy()
    first[asking[~is_first]] = False
    unknown = first.copy()
    if lookups is not None:
        asking = asking[is_first]
        lookups.ask(table, keys[asking])
        lookups.answer([table])
        unknown[asking[lookups.known(table)]] = False
    return first, unknown


def _nears(
    signed: Iterable[UnitResult], config: Deduplicate, order: npt.NDArray[np.int64], left: Mask, lookups: Lookups | None
) -> tuple[Mask, Mask]:
    """Who of `left` remains when clusters with one the corpus has seen go, and then of each of the others the first."""
    from pipelines.minhash import clusters, first_of_each

    candidates = np.flatnonzero(left & gather(signed, config, "comparable")[order])
    files = [result.path("bands.npy") for result in signed]
    links = []
    for band in range(config.bands):
        parts = [np.load(file, mmap_mode="r")[:, band] for file in files]
        keys = np.concatenate([np.empty((0, 2), np.uint64), *parts])[order[candidates]]
        firsts = first_of_each(keys)
        linked = firsts != np.arange(len(candidates))
        links.append((candidates[firsts[linked]], candidates[linked]))
        if lookups is not None:
            lookups.ask(band_table(band), keys)
    roots = clusters(len(order), links)
    seen = np.zeros_like(left)
    if lookups is not None:
        names = [band_table(band) for band in range(config.bands)]
        lookups.answer(names)
        for name in names:
            seen[roots[candidates[lookups.known(name)]]] = True
    fresh = left & ~seen[roots]
    return fresh, fresh & (roots == np.arange(len(order)))
