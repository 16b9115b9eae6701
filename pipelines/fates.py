"""What becomes of each document, decided in units over blocks of documents and ranges of keys: equal texts, equal
addresses, near-duplicates.

Each step looks only at what the one before it has left, and the best by precedence, then position, of a group stays.
Phases, with what their units hold at once:

    digests          a block      the first with each digest go on, to the range of their digest
    digests-equal    a range      of each digest the first of all blocks stays, unless the corpus has seen it
    urls, urls-equal              the same for addresses, where they count
    bands            a block      the first with each key of a band go on, the others are linked to it
    links            a range      the first with the key of all blocks, which the others are linked to; known ones
    stars ... labels a block,     the components of all links (`pipelines.components`), a cluster each
                     a range
    clusters         a block      the best document of each cluster in the block, and whether the corpus has seen one
    stays            a range      the best document of each cluster
    settled          a block      the fates

A block sends every key once, so no key, however frequent, gives a range more rows than there are blocks; a block gets
at most one row for each of its documents and bands. So a unit's memory does not grow with the corpus, but for a few
bytes for each unit of the phase before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from illada.config import Deduplicate
from pipelines.blocks import Left, SignedBlocks
from pipelines.components import connect
from pipelines.exchange import range_bits, unit_file
from pipelines.index import DIGESTS, URLS, SignatureIndex, band_table
from pipelines.pool import Results, UnitResult

_FEW_ROWS = 2**18
"""Bands are taken together while they have no more rows than that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """Keys of a table that the corpus has not seen: sorted, in a file for each of 2**bits ranges."""

    bits: int
    files: Sequence[Mapping[str, str]]
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """`settled` has the fates of each block (`pipelines.block_units.settle`); `fresh`, with an index, keys by table."""

    settled: Results
    fresh: Mapping[str, Fresh] = field(default_factory=dict)


class Decider:
    """Decides about the documents of `signed`."""

    def __init__(self, config: Deduplicate, index: SignatureIndex | None, signed: SignedBlocks) -> None:
        self._config, self._index, self._signed = config, index, signed
        self._phases, self._shape = signed.phases, signed.blocks.shape()
        self._fresh: dict[str, Fresh] = {}

    def decide(self) -> Decision:
        """Run all phases."""
        sent, lost = self._equals(DIGESTS, ["digests", "precedence"], {}, {})
        if self._config.urls:
            left = {"fates": (sent, "fates.npy")}
            sent, lost = self._equals(URLS, ["urls", "located", "precedence"], {"lost": lost}, left)
        sent, ranges = self._links(sent, lost)
        links = self._phases.folders("links", ranges)
        bits = range_bits(2 * sum(result.statistics["links"] for phase in (sent, ranges) for result in phase))
        linked = self._signed.run("stars-0", "link", [], {"links": links, "bits": bits}, {"own": (sent, "links.npy")})
        across = sum(result.statistics["across"] for result in linked)
        labels = connect(self._phases, linked, across, bits, self._shape)
        return Decision(settled=self._choose(sent, links, labels, bits), fresh=self._fresh)

    def _equals(
        self, table: str, columns: Sequence[str], same: Mapping[str, Any], left: Mapping[str, Left]
    ) -> tuple[Results, dict[str, str]]:
        """The units of task `send-keys`, and the folders of those of `find-equals`."""
        bits = self._bits([table])
        sent = self._signed.run(table, "send-keys", columns, {"table": table, "bits": bits, **same}, left)
        shared = {"source": self._phases.folders(table, sent), "table": table, "bits": bits, **self._shape}
        name = f"{table}-equal"
        ranges = self._phases.run(name, "find-equals", [{"part": part, **shared} for part in range(2**bits)])
        if self._index is not None:
            self._note(table, bits, ranges)
        return sent, self._phases.folders(name, ranges)

    def _links(self, before: Results, lost: Mapping[str, str]) -> tuple[Results, Results]:
        """The units of tasks `send-bands` and `find-links`."""
        bands = range(self._config.bands)
        bits = self._bits([band_table(band) for band in bands])
        left = {"fates": (before, "fates.npy")}
        sent = self._signed.run("bands", "send-bands", ["comparable", "bands"], {"bits": bits, "lost": lost}, left)
        together = 1 if bits else max(1, _FEW_ROWS // max(1, self._signed.blocks.documents))
        chunks = [list(bands[first : first + together]) for first in range(0, len(bands), together)]
        shared = {"source": self._phases.folders("bands", sent), "bits": bits, **self._shape}
        each = [(chunk, part) for chunk in chunks for part in range(2**bits)]
        ranges = self._phases.run("links", "find-links", [{"bands": some, "part": n, **shared} for some, n in each])
        for band in bands if self._index is not None else ():
            having = (result for result, (chunk, _) in zip(ranges, each, strict=True) if band in chunk)
            self._note(band_table(band), bits, having)
        return sent, ranges

    def _choose(self, sent: Results, links: Mapping[str, str], labels: Results, bits: int) -> Results:
        """The units of task `settle`."""
        folders = self._phases.folders
        same = {"labels": folders("labels", labels), "links": links, "indexed": self._index is not None, "bits": bits}
        left = {"fates": (sent, "fates.npy")}
        clusters = self._signed.run("clusters", "send-clusters", ["precedence"], same, left)
        source = folders("clusters", clusters)
        payloads = [{"source": source, "part": part, **self._shape} for part in range(2**bits)]
        stays = folders("stays", self._phases.run("stays", "choose", payloads))
        left = {key: (clusters, f"{key}.npy") for key in ("fates", "members")}
        return self._signed.run("settled", "settle", ["sizes"], {"stays": stays}, left)

    def _bits(self, tables: Sequence[str]) -> int:
        """By how many leading bits of their keys rows are divided: lookups need as many as the index."""
        indexed = [self._index.bits(table) for table in tables] if self._index is not None else []
        return max(range_bits(self._signed.blocks.documents), *indexed, 0)

    def _note(self, table: str, bits: int, ranges: Iterable[UnitResult]) -> None:
        found = [(unit_file(result, f"{table}.npy"), result.statistics["fresh"][table]) for result in ranges]
        files, rows = [file for file, _ in found], sum(number for _, number in found)
        self._fresh[table] = Fresh(bits=bits, files=files, rows=rows)
