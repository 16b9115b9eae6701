"""Rows that the units of one phase leave for those of the next, each of which reads its own part of every file.

A file begins with a table of where each part begins and of its checksum; a reader fetches the table and its part alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from illada.artifacts import DamagedWork, Folder

UInts = npt.NDArray[np.uint64]
_MIX = np.uint64(0x9E3779B97F4A7C15)


def part_of(keys: UInts, bits: int) -> UInts:
    """Which of 2**bits parts (bits <= 32) each key belongs to, whatever the keys' distribution."""
    mixed = keys * _MIX
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX
    return (mixed >> np.uint64(32)) >> np.uint64(32 - bits)


def write_parts(path: Path, rows: UInts, parts: npt.NDArray[Any], count: int) -> None:
    """Write each of `rows` [n, columns] for the part in `parts` [n] of `count` ones, in their order."""
    order = np.argsort(parts, kind="stable")
    rows = np.ascontiguousarray(rows[order])
    table = np.zeros((count + 1, 2), dtype=np.uint64)
    table[:, 0] = np.searchsorted(parts[order], np.arange(count + 1, dtype=parts.dtype))
    for part in range(count):
        table[part, 1] = xxhash.xxh3_64_intdigest(rows[int(table[part, 0]) : int(table[part + 1, 0])].tobytes())
    with path.open("wb") as file:
        np.save(file, table)
        file.write(rows.tobytes())


def read_parts(folders: Iterable[str], name: str, part: int, columns: int) -> UInts:
    """The rows [n, columns] for one part in the files called `name` of `folders`, in their order.

    Raises:
        DamagedWork: a file is not as it was written, and has been removed.
    """
    found = [np.empty((0, columns), dtype=np.uint64)]
    for url in folders:
        folder = Folder.at(url)
        try:
            with folder.open(name) as file:
                rows, intact = _read(file, part, columns)
        except (FileNotFoundError, ValueError, IndexError):
            intact = False
        if not intact:
            raise DamagedWork.removed(folder, name)
        found.append(rows)
    return np.concatenate(found)


def _read(file: Any, part: int, columns: int) -> tuple[UInts, bool]:
    table = np.lib.format.read_array(file, allow_pickle=False)
    start, checksum, end = int(table[part, 0]), int(table[part, 1]), int(table[part + 1, 0])
    file.seek(start * columns * 8, io.SEEK_CUR)
    data = file.read((end - start) * columns * 8)
    return np.frombuffer(data, dtype=np.uint64).reshape(-1, columns), xxhash.xxh3_64_intdigest(data) == checksum
