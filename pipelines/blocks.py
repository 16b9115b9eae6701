"""Documents of a stage in blocks of consecutive ones, whatever files they came in, and what becomes of each of them.

A block is what one unit of work decides about: its rows of the columns that signing wrote for each file of documents.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.config import Deduplicate
from pipelines.exchange import unit_file, unit_path
from pipelines.phases import Phases
from pipelines.pool import Results, UnitResult

BLOCK_BITS = 18
"""A block has 2**18 documents."""


class Fate(enum.IntEnum):
    """What becomes of a document: it is kept, or dropped for a reason; reasons are in the order they apply."""

    KEPT = 0
    DUPLICATE = 1
    KNOWN_DUPLICATE = 2
    DUPLICATE_URL = 3
    KNOWN_DUPLICATE_URL = 4
    KNOWN_NEAR_DUPLICATE = 5
    NEAR_DUPLICATE = 6


STEPS: Mapping[str, tuple[Fate, Fate]] = {
    "exact": (Fate.DUPLICATE, Fate.KNOWN_DUPLICATE),
    "url": (Fate.DUPLICATE_URL, Fate.KNOWN_DUPLICATE_URL),
    "near": (Fate.KNOWN_NEAR_DUPLICATE, Fate.NEAR_DUPLICATE),
}
"""The reasons of each step, both in the order they apply."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """`documents` cut every 2**bits; a document is known by its position among all."""

    documents: int
    bits: int

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-self.documents >> self.bits)

    def shape(self) -> dict[str, int]:
        """For payloads of units that write rows for blocks: see `block_of`."""
        return {"blocks": self.count, "block_bits": self.bits}


Left = tuple[Iterable[UnitResult], str]
"""What units left: their results, and the name of the file in each."""


class SignedBlocks:
    """Runs phases over the blocks of the documents that `signed` has by file, `rows` of them in each."""

    def __init__(self, phases: Phases, signed: Iterable[UnitResult], rows: Sequence[int], blocks: Blocks) -> None:
        self.phases, self.blocks = phases, blocks
        self._signed, self._rows = signed, rows

    def run(
        self,
        name: str,
        task: str,
        read: Sequence[str],
        same: Mapping[str, Any],
        left: Mapping[str, Left] | None = None,
        each: Sequence[Mapping[str, Any]] = (),
    ) -> Results:
        """A unit for each block.

        Args:
            read: columns that it reads.
            same: what is in the payload of every unit.
            left: by key, files that the unit of the same block left in an earlier phase.
            each: what else is in the payload of each one.
        """
        payloads = [{**payload, **same} for payload in self._payloads(read)]
        for payload, more in zip(payloads, each, strict=bool(each)):
            payload.update(more)
        for key, (results, file) in (left or {}).items():
            for payload, result in zip(payloads, results, strict=True):
                payload[key] = unit_file(result, file)
        return self.phases.run(name, task, payloads, [payload["end"] - payload["begin"] for payload in payloads])

    def _payloads(self, names: Sequence[str]) -> list[dict[str, Any]]:
        bits, count = self.blocks.bits, self.blocks.count
        pieces: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        start = 0
        for result, rows in zip(self._signed, self._rows, strict=True):
            end = start + rows
            for block in range(start >> bits, -(-end >> bits)):
                first, last = max(start, block << bits), min(end, (block + 1) << bits)
                if first < last:
                    files = {name: unit_file(result, f"{name}.npy") for name in names}
                    pieces[block].append({"files": files, "first": first - start, "last": last - start})
            start = end
        ends = [min((block + 1) << bits, self.blocks.documents) for block in range(count)]
        return [
            {"block": block, "begin": block << bits, "end": ends[block], "pieces": pieces[block]}
            for block in range(count)
        ]


def block_of(positions: npt.NDArray[np.uint64], payload: Mapping[str, Any]) -> npt.NDArray[np.uint64]:
    """The blocks that documents are in."""
    return positions >> np.uint64(payload["block_bits"])


def column(payload: Mapping[str, Any], name: str, config: Deduplicate) -> npt.NDArray[Any]:
    """The rows of a block's documents in one of the columns that its unit may read."""
    dtype, shape = columns(config)[name]
    found = [np.empty((0, *shape), dtype)]
    for piece in payload["pieces"]:
        array = np.load(unit_path(piece["files"][name]), mmap_mode="r")
        found.append(array[piece["first"] : piece["last"]])
    return found[1] if len(found) == 2 else np.concatenate(found)
