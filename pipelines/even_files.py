"""Writes the documents that are kept, in the order they came, into files of about even size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from illada.config import Deduplicate
from pipelines.blocks import Fate, SignedBlocks, column
from pipelines.documents import SCHEMA, DocumentFile
from pipelines.exchange import unit_file, unit_path
from pipelines.pool import Results
from pipelines.shared import fetch

FILE_BYTES = 64 * 2**20
"""About how much text an output file holds at most."""
_SMALL_FILE_BYTES = 2**20
_FEW_FILES = 16  # small corpora are cut finer, to occupy several workers later on


def write_kept(files: Sequence[DocumentFile], rows: Sequence[int], signed: SignedBlocks, settled: Results) -> Results:
    """Run tasks `cut` and `write`; `settled` has the fates by block, `rows` the documents in each of `files`.

    Each output file is a range of documents, and its unit reads the files that are in the range.
    """
    ends, weights = _ranges(signed, settled)
    begins, starts = [0, *ends][: len(ends)], np.cumsum([0, *rows])
    fates = [unit_file(result, "fates.npy") for result in settled]
    bits = signed.blocks.bits
    payloads = []
    for begin, end in zip(begins, ends, strict=True):
        span = range(np.searchsorted(starts[1:], begin, side="right"), np.searchsorted(starts[:-1], end, side="left"))
        pieces = [{"file": files[place].reference, "offset": int(starts[place])} for place in span]
        masks = {str(block): fates[block] for block in range(begin >> bits, (end - 1 >> bits) + 1)}
        payloads.append({"pieces": pieces, "begin": begin, "end": end, "bits": bits, "fates": masks})
    return signed.phases.run("written", "write", payloads, weights)


def _ranges(signed: SignedBlocks, settled: Results) -> tuple[list[int], list[int]]:
    """Before which positions the output files end, and how many documents each has."""
    statistics = [result.statistics for result in settled]
    sizes = [block["bytes"][Fate.KEPT] for block in statistics]
    total = sum(sizes)
    if not total:
        return [], []
    number = max(math.ceil(total / FILE_BYTES), min(_FEW_FILES, math.ceil(total / _SMALL_FILE_BYTES)))
    before = np.cumsum([0, *sizes]).tolist()
    each = [{"before": size} for size in before[:-1]]
    same, left = {"total": total, "number": number}, {"fates": (settled, "fates.npy")}
    cut = signed.run("cut", "cut", ["sizes"], same, left, each)
    ends, counts, start = [], [0], 0
    for block, result in zip(statistics, cut, strict=True):
        for end, kept in result.statistics["cuts"]:
            ends.append(end)
            counts.append(start + kept)
        start += block["documents"][Fate.KEPT]
    ends[-1], counts[-1] = signed.blocks.documents, start  # what is empty at the end comes, too
    return ends, np.diff(counts).tolist()


def cut_block(config: Deduplicate, payload: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A unit: after which documents of a block files end, and how many it keeps up to there.

    Of `total` bytes kept in all blocks, `before` come before this one; part k of `number` ends with the document in
    which byte total (k + 1) / number lies.
    """
    before, total, number = payload["before"], payload["total"], payload["number"]
    kept = np.flatnonzero(np.load(unit_path(payload["fates"])) == Fate.KEPT)
    ends = before + np.cumsum(column(payload, "sizes", config)[kept])
    last = int(ends[-1]) if len(ends) else before
    targets = (total * part // number for part in range(before * number // total, last * number // total + 2))
    places = np.unique(np.searchsorted(ends, [target for target in targets if before < target <= last]))
    return {"cuts": [[payload["begin"] + int(kept[place]) + 1, int(place) + 1] for place in places.tolist()]}


class KeptReader:
    """Reads what units of task `write` keep; a row group, or a block's fates, stay for the next one to begin with."""

    def __init__(self) -> None:
        self._group: tuple[tuple[str, int], pa.Table] | None = None
        self._fates: tuple[str, npt.NDArray[np.uint8]] | None = None

    def tables(self, payload: Mapping[str, Any]) -> Iterator[pa.Table]:
        """The documents of a unit, from one row group after another."""
        for piece in payload["pieces"]:
            with pq.ParquetFile(fetch(piece["file"])) as file:
                end = piece["offset"]
                for group in range(file.num_row_groups):
                    begin, end = end, end + file.metadata.row_group(group).num_rows
                    first, last = max(begin, payload["begin"]), min(end, payload["end"])
                    if first < last and (kept := self._kept(payload, first, last)).any():
                        rows = self._row_group(piece["file"]["sha256"], file, group).slice(first - begin, last - first)
                        yield rows.filter(pa.array(kept))

    def _row_group(self, sha256: str, file: pq.ParquetFile, group: int) -> pa.Table:
        if self._group is None or self._group[0] != (sha256, group):
            self._group = (sha256, group), file.read_row_group(group, columns=SCHEMA.names)
        return self._group[1]

    def _kept(self, payload: Mapping[str, Any], first: int, last: int) -> npt.NDArray[np.bool_]:
        """Which of the documents from position `first` to before `last` are kept."""
        bits, found = payload["bits"], []
        for block in range(first >> bits, (last - 1 >> bits) + 1):
            file, begin = payload["fates"][str(block)], block << bits
            name = f"{file['folder']}/{file['name']}"
            if self._fates is None or self._fates[0] != name:
                self._fates = name, np.load(unit_path(file))
            found.append(self._fates[1][max(first - begin, 0) : last - begin] == Fate.KEPT)
        return np.concatenate(found)
