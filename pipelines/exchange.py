"""Rows that the units of one phase leave for those of the next, each of which reads its own part of every file.

A file begins with a table of where each part begins and of its checksum; a reader takes two rows of the table and its
part alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from illada.artifacts import Attempt, DamagedWork, Folder, atomic_path
from pipelines.ledger import UnitResult
from pipelines.shared import Reference, fetch, share

UInts = npt.NDArray[np.uint64]
RANGE_ROWS = 2**22
"""Rows that a unit reads from all others, about."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


def range_bits(rows: float) -> int:
    """Into how many ranges, as a power of two, `rows` are divided."""
    return max(0, math.ceil(math.log2(max(rows, 1) / RANGE_ROWS)))


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


def share_folders(results: Iterable[UnitResult], name: str, attempt: Attempt) -> dict[str, str]:
    """A list of where the units of a phase, called `name`, left their files, for those of the next."""
    path = attempt.scratch / f"{name}-folders.json"
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([str(result.folder) for result in results]), encoding="utf-8")
    return share(path, attempt.work)


def shared_folders(source: Reference) -> list[str]:
    """What `share_folders` wrote."""
    folders: list[str] = json.loads(fetch(source).read_text(encoding="utf-8"))
    return folders


def unit_file(result: UnitResult, name: str) -> dict[str, str]:
    """Names a file of a finished unit in the payload of another one."""
    return {"folder": str(result.folder), "name": name, "sha256": result.files[name]}


def unit_path(file: Mapping[str, str]) -> Path:
    """A local path of what `unit_file` named.

    Raises:
        DamagedWork: it is not as it was written, and has been removed.
    """
    name = file["name"]
    files = {name: file["sha256"]}
    return UnitResult(name=name, folder=Folder.at(file["folder"]), files=files, statistics={}).path(name)


def _read(file: Any, part: int, columns: int) -> tuple[UInts, bool]:
    np.lib.format.read_magic(file)
    (count, width), _, _ = np.lib.format.read_array_header_1_0(file)
    table = file.tell()
    file.seek(table + part * width * 8)
    start, checksum, end, _ = np.frombuffer(file.read(2 * width * 8), dtype=np.uint64).tolist()
    file.seek(table + (count * width + start * columns) * 8)
    data = file.read((end - start) * columns * 8)
    return np.frombuffer(data, dtype=np.uint64).reshape(-1, columns), xxhash.xxh3_64_intdigest(data) == checksum
