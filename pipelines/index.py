"""The signature index of a corpus: which documents it has seen, as sorted keys in immutable segments.

A refresh asks it whether a new document equals, or nearly equals, one that came before, without reading any old text.
There is a table of exact digests, one of MinHash band keys for each band and, where they count, one of addresses; every
key has 128 bits. A segment holds the keys that one refresh brought, each table sorted and cut by the keys' leading bits
into parts; it never changes. Newer segments of like size are merged into one (log-structured merge, O'Neil et al.,
1996), so that every segment is more than twice as large as the next one, and there are at most about log2(corpus /
refresh) of them.

A lookup is a binary search on the keys' high words in a memory map, then a comparison of the low words: it touches
O(log old) rows for each new key and segment. Ranges of keys are looked up and merged independently of each other, so
no process ever needs more than a part of each segment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from illada.artifacts import Artifact, ArtifactError, Store
from illada.config import Deduplicate
from pipelines.exchange import unit_path

INDEX = "index.json"
INDEX_VERSION = 1
PART_ROWS = 2**24
"""Keys of a part, at most about: 256 MiB."""
DIGESTS = "digests"
URLS = "urls"
KEY_BYTES = 16

Keys = npt.NDArray[np.uint64]
"""[2, n]: high and low words of keys, in ascending order, each key once."""
Mask = npt.NDArray[np.bool_]


class Words(Protocol):
    """Words that can be had by their places: an array, or a memory map."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, places: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint64]:
        """Those at `places`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Keys of some refreshes; `parts` has the rows of every part of each table, a power of two of them."""

    artifact: Artifact
    documents: int
    parts: Mapping[str, tuple[int, ...]]

    def rows(self, table: str) -> int:
        """Keys of a table."""
        return sum(self.parts[table])

    def bits(self, table: str) -> int:
        """Leading bits of a key that choose its part."""
        return len(self.parts[table]).bit_length() - 1

    def read(self, table: str, bits: int, prefix: int) -> Keys:
        """The keys whose leading `bits` (no fewer than chose the part) are `prefix`: a view of a memory map."""
        part = prefix >> (bits - self.bits(table))
        if not self.parts[table][part]:
            return np.empty((2, 0), dtype=np.uint64)
        return within(np.load(self.artifact.path(part_name(table, part)), mmap_mode="r"), bits, prefix)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureIndex:
    """Segments, the oldest and largest first, of keys made under one configuration."""

    config: Mapping[str, int]
    segments: tuple[Segment, ...] = ()

    @property
    def documents(self) -> int:
        """Documents that were signed into it."""
        return sum(segment.documents for segment in self.segments)

    def bits(self, table: str) -> int:
        """The least number of leading bits by which lookups in a table can be split."""
        return max((segment.bits(table) for segment in self.segments), default=0)

    def known(self, table: str, bits: int, prefix: int, wanted: Keys) -> Mask:
        """Which of the wanted keys, whose leading `bits` are `prefix`, any segment has; see `bits`."""
        found = np.zeros(wanted.shape[1], dtype=bool)
        for segment in self.segments:
            high, low = segment.read(table, bits, prefix)
            found |= contains(high, low, wanted)
        return found

    def mergeable(self, documents: int) -> int:
        """How many of the newest segments a new one of `documents` is merged with."""
        merged = 0
        for segment in reversed(self.segments):
            if segment.documents > 2 * documents:
                break
            documents += segment.documents
            merged += 1
        return merged

    def without_newest(self, count: int) -> SignatureIndex:
        """The index of the other segments."""
        return SignatureIndex(config=self.config, segments=self.segments[: len(self.segments) - count])


def key_config(config: Deduplicate) -> dict[str, int]:
    """What tables there are, and what their keys are a function of besides the document."""
    urls = {"urls": 1} if config.urls else {}
    return {"ngram": config.ngram, "bands": config.bands, "rows": config.rows, "seed": config.seed, **urls}


def tables(config: Mapping[str, int]) -> list[str]:
    """Names of all tables: exact digests, addresses if they count, then the bands."""
    return [DIGESTS, *([URLS] if config.get("urls") else []), *(band_table(band) for band in range(config["bands"]))]


def band_table(band: int) -> str:
    """The table of a band."""
    return f"band-{band:02d}"


def part_name(table: str, part: int) -> str:
    """The file of a part within the artifact of its segment."""
    return f"index/{table}/{part:05d}.npy"


def open_index(artifact: Artifact, store: Store) -> SignatureIndex:
    """The index that a deduplication left, its segments wherever in the store they are.

    Raises:
        ArtifactError: the artifact has no index, one of a newer version, or a segment is gone.
    """
    if INDEX not in artifact.names:
        raise ArtifactError(f"artifact {artifact.stage}/{artifact.fingerprint[:12]} has no signature index ({INDEX})")
    value = json.loads(artifact.path(INDEX).read_text(encoding="utf-8"))
    if value["index_version"] > INDEX_VERSION:
        raise ArtifactError(f"{INDEX} of {artifact.fingerprint[:12]} was written by a newer illada; upgrade to read it")
    segments = tuple(
        Segment(
            artifact=store.open(entry["stage"], entry["fingerprint"]),
            documents=entry["documents"],
            parts={table: tuple(rows) for table, rows in entry["parts"].items()},
        )
        for entry in value["segments"]
    )
    return SignatureIndex(config=value["config"], segments=segments)


def index_value(older: SignatureIndex, stage: str, fingerprint: str, segment: Mapping[str, Any]) -> dict[str, Any]:
    """What `index.json` holds: the older segments, and the one in the artifact (stage, fingerprint) itself."""
    entries = [
        {
            "stage": known.artifact.stage,
            "fingerprint": known.artifact.fingerprint,
            "documents": known.documents,
            "parts": known.parts,
        }
        for known in older.segments
    ]
    own = {"stage": stage, "fingerprint": fingerprint, **segment}
    return {"index_version": INDEX_VERSION, "config": dict(older.config), "segments": [*entries, own]}


def part_bits(rows: int) -> int:
    """Leading bits by which a table of `rows` keys is cut into parts."""
    return max(0, math.ceil(math.log2(rows / PART_ROWS))) if rows else 0


def index_bytes(documents: int, bands: int) -> int:
    """Size of the index of `documents`, none of which shares a key with another: what it costs at most."""
    return documents * KEY_BYTES * (bands + 1)


def range_ends(bits: int, prefix: int) -> npt.NDArray[np.uint64]:
    """The least high word with the leading `bits` of `prefix`, and the first after them (wrong for the last range)."""
    shift = 64 - bits
    return np.array([(prefix << shift) % 2**64, ((prefix + 1) << shift) % 2**64], dtype=np.uint64)


def within(keys: Keys, bits: int, prefix: int) -> Keys:
    """Those of sorted keys whose leading `bits` are `prefix`: a view."""
    first, last = lower_bound(keys[0], range_ends(bits, prefix)).tolist()
    return np.asarray(keys)[:, first : last if prefix + 1 < 2**bits else None]


def prefixes(words: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    """The leading `bits` of each word."""
    return words >> np.uint64(64 - bits) if bits else np.zeros_like(words)


def sort_keys(rows: npt.NDArray[np.uint64]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """`rows` [n, 2] sorted, each once, and the place of every row among them [n]."""
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    ordered = rows[order]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.cumsum(new) - 1
    return np.ascontiguousarray(ordered[new].T), places


def merge_keys(runs: Sequence[Keys]) -> Keys:
    """Several sorted runs as one."""
    together = np.concatenate(runs, axis=1)
    return sort_keys(together.T)[0]


def lower_bound(words: Words, wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """For each wanted word the first place in sorted `words` that is not below it; reads log2 of them for each."""
    first = np.zeros(len(wanted), dtype=np.int64)
    last = np.full(len(wanted), len(words), dtype=np.int64)
    searching = np.flatnonzero(first < last)
    while searching.size:
        middle = (first[searching] + last[searching]) // 2
        below = words[middle] < wanted[searching]
        first[searching[below]] = middle[below] + 1
        last[searching[~below]] = middle[~below]
        searching = searching[first[searching] < last[searching]]
    return first


def contains(high: Words, low: Words, wanted: Keys) -> Mask:
    """Which of the wanted keys are among sorted ones, given as their high and low words."""
    found = np.zeros(wanted.shape[1], dtype=bool)
    place = lower_bound(high, wanted[0])
    searching = np.flatnonzero(place < len(high))
    while searching.size:  # again only where high words are equal and low ones are not
        searching = searching[high[place[searching]] == wanted[0, searching]]
        equal = low[place[searching]] == wanted[1, searching]
        found[searching[equal]] = True
        searching = searching[~equal]
        place[searching] += 1
        searching = searching[place[searching] < len(high)]
    return found


def build_part(index: SignatureIndex, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A unit of work: the keys of a range that are new, merged with those of the newest segments, as `part.npy`."""
    bits, prefix = payload["bits"], payload["prefix"]
    new = [within(np.load(unit_path(file), mmap_mode="r"), bits, prefix) for file in payload["fresh"]]
    merged = index.segments[len(index.segments) - payload["merged"] :]
    keys = merge_keys([*(segment.read(payload["table"], bits, prefix) for segment in merged), *new])
    np.save(output / "part.npy", keys)
    return {"rows": keys.shape[1]}
