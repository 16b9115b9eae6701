"""The units of stage `substrings`: which windows of a corpus are repeated, found file by file and range by range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from illada.artifacts import Folder
from illada.config import Substrings
from pipelines.documents import TextDocument, read_documents
from pipelines.exchange import UInts, part_of, read_parts, shared_folders, write_parts
from pipelines.pool import Unit, UnitResult
from pipelines.recorder import Recorder
from pipelines.shared import fetch
from pipelines.spans import marked_spans, whole_words, without_spans
from pipelines.step_output import to_datatrove, write_step
from pipelines.suffix_array import Bytes, first_windows
from pipelines.window_kernels import covered, least_within, window_hashes

BLOCK_BYTES = 2**21
"""Text of one suffix array: a block ends with the document that fills it. It takes 20 times as much memory,
of which a processor's caches hold most; larger blocks take twice the time."""
_BASES = (np.uint64(0x0F3B1D6A9C5E7281), np.uint64(0x1A94C7E20B6D853F))  # arbitrary, below 2^61 - 1
_REJECTED_SAMPLE = 0.05
_OFFSET, _BLOCK = np.uint64(40), np.uint64(20)  # bits of a place within its file, and of a block's number within it

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Documents one after another, `ends` being where each ends."""

    text: Bytes
    ends: npt.NDArray[np.int64]

    def documents(self) -> Iterator[tuple[int, int]]:
        """Where each begins and ends."""
        return zip([0, *self.ends[:-1].tolist()], self.ends.tolist(), strict=True)


class SubstringsWorker:
    """Works through files and ranges, one after another."""

    def __init__(self, config: Substrings) -> None:
        self._config, self._length = config, config.length
        self._gram = config.length // 2

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """See `pipelines.substrings` for the kinds of units."""
        tasks = {
            "find": self._find,
            "keys": _shared_keys,
            "windows": self._windows,
            "later": self._later,
            "cut": self._cut,
        }
        return tasks[unit.payload["task"]](unit.payload, output)

    def _find(self, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """`local.npy`, a bit for each byte: whether a repeated window begins there; `keys.rows`: (key, block)."""
        marks, rows, blocks = [np.empty(0, dtype=bool)], [np.empty((0, 2), dtype=np.uint64)], 0
        for block in _blocks(fetch(payload["file"])):
            first = first_windows(block.text, block.ends, self._length)
            local = (first >= 0) & (np.arange(len(first)) - first >= self._length)
            fresh = (first >= 0) & ~local
            keys = [self._keys(block.text[a:b])[fresh[a : max(a, b - self._length + 1)]] for a, b in block.documents()]
            unique = np.unique(np.concatenate([some[_run_starts(some)] for some in keys]))
            number = (np.uint64(payload["number"]) << _BLOCK) + np.uint64(blocks)
            rows.append(np.stack([unique, np.full_like(unique, number)], axis=1))
            marks.append(local)
            blocks += 1
        together = np.concatenate(rows)
        write_parts(output / "keys.rows", together, part_of(together[:, 0], payload["bits"]), 2 ** payload["bits"])
        np.save(output / "local.npy", np.packbits(np.concatenate(marks)))
        return {"blocks": blocks}

    def _keys(self, text: Bytes) -> UInts:
        """For each window of a document the least hash of the shorter windows in it."""
        hashes = window_hashes(text, self._gram, _BASES[0])
        keys: UInts = least_within(hashes, self._length - self._gram + 1)
        return keys

    def _windows(self, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """`windows.rows`: (hash, hash, place) of windows with a shared key that their block does not repeat."""
        shared = read_parts(shared_folders(payload["keys"]), "shared.rows", payload["number"], 1)[:, 0]
        shared = np.append(np.sort(shared), np.uint64(2**64 - 1))
        local, rows, at = _local(payload), [np.empty((0, 3), dtype=np.uint64)], 0
        for text in _texts(fetch(payload["file"])):
            keys = self._keys(text)
            starts = _run_starts(keys)
            known = shared[np.searchsorted(shared, keys[starts])] == keys[starts]
            chosen = ~local[at : at + len(keys)] & np.repeat(known, np.diff(starts, append=len(keys)))
            if chosen.any():
                hashes = [window_hashes(text, self._length, base)[chosen] for base in _BASES]
                places = np.flatnonzero(chosen).astype(np.uint64) + np.uint64(at)
                rows.append(np.stack([*hashes, places + (np.uint64(payload["number"]) << _OFFSET)], axis=1))
            at += len(text)
        together = np.concatenate(rows)
        write_parts(output / "windows.rows", together, part_of(together[:, 0], payload["bits"]), 2 ** payload["bits"])
        return {"windows": len(together)}

    def _later(self, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """`later.rows`: (place in the file) of windows that are equal to an earlier one, by file."""
        rows = read_parts(shared_folders(payload["source"]), "windows.rows", payload["part"], 3)
        rows = rows[np.argsort(rows[:, 0].copy(), kind="stable")]  # in order of their places before and after
        if ((rows[1:, 0] == rows[:-1, 0]) & (rows[1:, 1] != rows[:-1, 1])).any():
            rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
        first = rows[new, 2][np.cumsum(new) - 1]
        places = rows[rows[:, 2] - first >= self._length, 2]
        offsets = places & np.uint64(2 ** int(_OFFSET) - 1)
        write_parts(output / "later.rows", offsets[:, None], places >> _OFFSET, payload["files"])
        return {"windows": len(places)}

    def _cut(self, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """`documents.parquet`, `rejected.parquet` (a sample); returns counts."""
        marks = _local(payload)
        if "later" in payload:
            marks[read_parts(shared_folders(payload["later"]), "later.rows", payload["number"], 1)[:, 0]] = True
        recorder = Recorder(["substrings"], payload["file"]["url"], _REJECTED_SAMPLE)
        counts = dict.fromkeys(("cut_documents", "cuts", "cut_bytes"), 0)

        def kept() -> Iterator[TextDocument]:
            at = 0
            for document in recorder.funnel.reading("substrings", read_documents(fetch(payload["file"]))):
                data = document.text.encode()
                repeated = covered(marks[at : at + len(data)], self._length)
                at += len(data)
                text = self._without(data, repeated, counts)
                if text is None:
                    recorder.reject("substrings", to_datatrove(document), "repeated")
                    continue
                yield document if text == data else replace(document, text=text.decode())

        return {**write_step(output, "substrings", kept(), recorder), **counts}

    def _without(self, data: bytes, repeated: Mask, counts: dict[str, int]) -> bytes | None:
        """What stays of a document, None when it is to be dropped."""
        if repeated.any() and repeated.sum() >= self._config.drop_share * len(data):
            return None
        if not self._config.cut:
            return data
        spans = [whole_words(data, start, end) for start, end in marked_spans(repeated)]
        spans = [(start, end) for start, end in spans if start < end]
        if not spans:
            return data
        text = without_spans(data, spans)
        if not text.strip():
            return None
        counts["cut_documents"] += 1
        counts["cuts"] += len(spans)
        counts["cut_bytes"] += len(data) - len(text)
        return text


def _shared_keys(payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """`shared.rows`: (key) of keys that several blocks have, by the files that have them."""
    rows = read_parts(shared_folders(payload["source"]), "keys.rows", payload["part"], 2)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    equal = rows[1:, 0] == rows[:-1, 0]
    several = np.zeros(len(rows), dtype=bool)
    several[1:] |= equal
    several[:-1] |= equal
    rows = rows[several]
    rows[:, 1] >>= _BLOCK
    rows = np.unique(rows, axis=0)
    write_parts(output / "shared.rows", rows[:, :1], rows[:, 1], payload["files"])
    return {"shared": len(rows)}


def _run_starts(values: UInts) -> npt.NDArray[np.int64]:
    """Where runs of equal `values` begin."""
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    return np.flatnonzero(new)


def _local(payload: Mapping[str, Any]) -> Mask:
    """What `find` marked in the file, perhaps followed by a few places more."""
    local = payload["local"]
    found = UnitResult(name="find", folder=Folder.at(local["url"]), files={"local.npy": local["sha256"]}, statistics={})
    return np.unpackbits(np.load(found.path("local.npy"))).astype(bool)


def _texts(path: Path) -> Iterator[Bytes]:
    """The texts of a file of documents in UTF-8, in order."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for text in file.read_row_group(group, columns=["text"]).column("text"):
                yield np.frombuffer(text.as_buffer(), dtype=np.uint8)


def _blocks(path: Path) -> Iterator[_Block]:
    texts: list[Bytes] = []
    size = 0
    for text in _texts(path):
        texts.append(text)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield _block(texts)
            texts, size = [], 0
    if texts:
        yield _block(texts)


def _block(texts: list[Bytes]) -> _Block:
    return _Block(text=np.concatenate(texts), ends=np.cumsum([len(text) for text in texts]))
