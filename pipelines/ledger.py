"""Which units of a stage are finished, kept where the next attempt finds it without reading what they wrote.

A finished unit has a folder of output and a marker in the stage's work folder. The marker, `<unit>.json`, is one line:
the stage it is of, the unit's payload, folder, files (size, time of writing, checksum) and statistics, behind the
sha256 of all that. One that came here from another stage, or another configuration of this one, counts for nothing.
After every thousand units the driver writes their lines once more, together, as a segment (`done-000012.<id>.jsonl`).
So an attempt that takes 100,000 finished units over reads a hundred segments and at most a thousand markers. A line
that is damaged counts for nothing; the unit's marker, or doing it again, makes up for it.

Taking over checks that every file is there with its size and time of writing; content is read and compared where it is
used (`UnitResult.path`) or published (`UnitResult.adopt`). What turns out damaged there is removed, which makes its
unit unfinished, and the stage is tried again.

Lines wait in a temporary file until results are asked for: memory holds a few dozen bytes a unit.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.artifacts import ArtifactError, Attempt, DamagedWork, Folder, fingerprint, sha256_file, transfer
from illada.artifacts.files import sync

_SEGMENT_UNITS = 1000
_SEGMENT_BYTES = 2**24
_IN_MEMORY_BYTES = 2**24
_THREADS = 16  # a shared file system answers many questions at once, and each one slowly
_ASKED_TOGETHER = 32  # units


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One piece of a stage's input. `name` is unique and safe as a file name; `payload` is plain JSON.

    `weight` is what progress counts, in the stage's own measure (documents, bytes); heavy units start first.
    """

    name: str
    payload: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A unit that was given up because it killed every worker that tried it, and what ended them."""

    unit: Unit
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
    """A finished unit: the statistics its worker returned, and the files it wrote, by name with their sha256."""

    name: str
    folder: Folder
    files: Mapping[str, str]
    statistics: dict[str, Any]

    def path(self, name: str) -> Path:
        """A local path of the file called `name`, after reading all of it to see that it is as it was written.

        Raises:
            DamagedWork: it is not, and has been removed.
        """
        try:
            path = self.folder.fetch(name, self.files[name])
            intact = self.folder.path is None or sha256_file(path) == self.files[name]
        except (FileNotFoundError, ArtifactError):
            intact = False
        if not intact:
            raise DamagedWork.removed(self.folder, name)
        return path

    def adopt(self, name: str, attempt: Attempt, target: str) -> None:
        """Make the file called `name` the output's file `target`; its content is compared when that is published.

        Raises:
            DamagedWork: it is missing.
        """
        try:
            attempt.adopt(self.folder, name, target, sha256=self.files[name])
        except FileNotFoundError:
            raise DamagedWork.removed(self.folder, name) from None


class Ledger:
    """The finished ones of `units`, which one driver at a time keeps in the folder `work`."""

    def __init__(self, units: Sequence[Unit], work: Folder) -> None:
        """Takes over what an earlier attempt finished with the same payload, where its files are still there."""
        self._units, self._work, self._of = units, work, stage_of(work)
        self._positions = {unit.name: position for position, unit in enumerate(units)}
        assert len(self._positions) == len(units), "unit names must be unique"
        self._lines = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115, lives as long as this
        self._offsets = array("q", [-1]) * len(units)
        self._sizes: dict[str, int] = {}
        self._count = self._segments = self._loose = self._loose_from = 0
        self._take_over()

    def __len__(self) -> int:
        """How many units are finished."""
        return self._count

    @property
    def unfinished(self) -> list[Unit]:
        """The units that remain to be done, in their order."""
        return [unit for unit, offset in zip(self._units, self._offsets, strict=True) if offset < 0]

    def finished(self) -> Iterator[int]:
        """The positions of the finished units, in their order."""
        return (position for position, offset in enumerate(self._offsets) if offset >= 0)

    def add(self, unit: Unit, line: bytes) -> None:
        """Note the marker's line of a unit that has just been finished."""
        self._keep(self._positions[unit.name], line)
        self._loose += 1
        self._gather()

    def marked(self, unit: Unit) -> bytes | None:
        """The marker's line of a unit that was finished, though its worker could not tell; None when it was not."""
        try:
            line = self._work.read_bytes(f"{unit.name}.json")
        except FileNotFoundError:
            return None
        done = parse(line)
        if done is None or (done["of"], done["payload"]) != (self._of, fingerprint(unit.payload)):
            return None
        if self._work.path is None:
            self._sizes = self._work.names(f"{done['folder']}/")
        return line if self._intact([(0, line, done)])[0] else None

    def result(self, position: int) -> UnitResult:
        """The result of the unit at `position`, which is finished."""
        assert self._offsets[position] >= 0, f"unit {self._units[position].name} is not finished"
        self._lines.seek(self._offsets[position])
        done = parse(self._lines.readline())
        self._lines.seek(0, os.SEEK_END)
        assert done is not None
        files = {file["name"]: file["sha256"] for file in done["files"]}
        folder = self._work / done["folder"]
        return UnitResult(name=done["unit"], folder=folder, files=files, statistics=done["statistics"])

    def _keep(self, position: int, line: bytes) -> None:
        self._count += self._offsets[position] < 0
        self._offsets[position] = self._lines.tell()
        self._lines.write(line)

    def _gather(self) -> None:
        """Write a segment of the lines that are in no segment yet, once they are many."""
        end = self._lines.tell()
        if self._loose < _SEGMENT_UNITS and end - self._loose_from < _SEGMENT_BYTES:
            return
        self._lines.seek(self._loose_from)
        # The random part keeps a driver that has lost its lease from replacing its successor's segment.
        name = f"done-{self._segments:06d}.{uuid.uuid4().hex[:8]}.jsonl"
        self._work.write(name, self._lines.read())
        self._segments += 1
        self._loose, self._loose_from = 0, end

    def _take_over(self) -> None:
        if self._work.path is None:
            self._sizes = self._work.names()  # of everything, in one listing: to ask for each file would take longer
            present = {name for name in self._sizes if "/" not in name}
        else:
            present = set(os.listdir(self._work.path)) if self._work.path.is_dir() else set()  # noqa: PTH208
        segments = sorted(name for name in present if name.startswith("done-") and name.endswith(".jsonl"))
        if segments:
            self._segments = int(segments[-1].split(".")[0].removeprefix("done-")) + 1
        with ThreadPoolExecutor(_THREADS) as threads:
            for name in reversed(segments):  # what was done again counts as it was done last
                self._take(self._work.read_bytes(name).splitlines(keepends=True), threads)
            self._loose_from = self._lines.tell()
            markers = [name for unit in self.unfinished if (name := f"{unit.name}.json") in present]
            for first in range(0, len(markers), _SEGMENT_UNITS):
                some = markers[first : first + _SEGMENT_UNITS]
                lines = list(threads.map(self._work.read_bytes, some))
                self._loose += self._take(lines, threads)
                self._gather()
        self._sizes = {}

    def _take(self, lines: Sequence[bytes], threads: ThreadPoolExecutor) -> int:
        """Keep those of `lines` that tell of a unit, not known as finished so far, whose files are there."""
        before = self._count
        found = []
        for line in lines:
            done = parse(line)
            position = self._positions.get(done["unit"], -1) if done is not None else -1
            if done is None or position < 0 or self._offsets[position] >= 0:
                continue
            if done["of"] == self._of and done["payload"] == fingerprint(self._units[position].payload):
                found.append((position, line, done))
        chunks = [found[first : first + _ASKED_TOGETHER] for first in range(0, len(found), _ASKED_TOGETHER)]
        for chunk, intact in zip(chunks, threads.map(self._intact, chunks), strict=True):
            for (position, line, _), good in zip(chunk, intact, strict=True):
                if good:
                    self._keep(position, line)
        return self._count - before

    def _intact(self, chunk: Sequence[tuple[int, bytes, dict[str, Any]]]) -> list[bool]:
        return [
            all(self._as_written(f"{done['folder']}/{file['name']}", file) for file in done["files"])
            for _, _, done in chunk
        ]

    def _as_written(self, name: str, file: Mapping[str, Any]) -> bool:
        """Whether the file has its size and time of writing; with another time (a restored copy), its content decides.

        An object is written whole and never changed.
        """
        if self._work.path is None:
            return self._sizes.get(name) == file["bytes"]
        path = f"{self._work}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116, asked 100,000 times
        except OSError:
            return False
        if status.st_size != file["bytes"]:
            return False
        return status.st_mtime_ns == file["modified"] or sha256_file(Path(path)) == file["sha256"]


class Results:
    """The results of all units that have one, in the order of the units: read as they are asked for, one at a time.

    `quarantined` are the units that were given up; where none may be, a result's position is its unit's.
    """

    def __init__(self, ledger: Ledger, quarantined: Sequence[Quarantined] = ()) -> None:
        self._ledger, self.quarantined = ledger, quarantined

    def __len__(self) -> int:
        """How many results there are."""
        return len(self._ledger)

    def __getitem__(self, position: int) -> UnitResult:
        """The result of the unit at `position`."""
        return self._ledger.result(position)

    def __iter__(self) -> Iterator[UnitResult]:
        """All of them; any number of times."""
        return map(self._ledger.result, self._ledger.finished())


def mark(unit: Unit, work: Folder, output: Path, folder: Folder, statistics: Mapping[str, Any]) -> bytes:
    """Make `unit` finished; returns its marker's line.

    Args:
        output: the local folder it wrote into.
        folder: the folder of `work` its files are to be in; on files, `output` itself.
    """

    def put(path: Path) -> dict[str, Any]:
        name, sha256, status = path.relative_to(output).as_posix(), sha256_file(path), path.stat()
        if folder.path is None:
            folder.put(path, name, sha256)
        else:
            sync(path)
        return {"name": name, "bytes": status.st_size, "modified": status.st_mtime_ns, "sha256": sha256}

    done = {
        "of": stage_of(work),
        "unit": unit.name,
        "payload": fingerprint(unit.payload),
        "folder": folder.name,
        "files": transfer(put, sorted(path for path in output.rglob("*") if path.is_file())),
        "statistics": statistics,
    }
    line = sealed(done)
    work.write(f"{unit.name}.json", line)
    return line


def stage_of(work: Folder) -> str:
    """What binds a marker to its stage: the work folder's path from the stage's name and fingerprint on."""
    parts = str(work).split("/")
    known = "work" in parts[2:]
    return "/".join(parts[len(parts) - parts[::-1].index("work") - 3 :]) if known else work.name


def sealed(content: Mapping[str, Any]) -> bytes:
    """A line of JSON behind its own sha256."""
    body = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return b'["%s",%s]\n' % (hashlib.sha256(body).hexdigest().encode(), body)


def parse(line: bytes) -> dict[str, Any] | None:
    """What a `sealed` line says, or None when it is not what was written."""
    digest, body = line[2:66], line[68:-2]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    done: dict[str, Any] = json.loads(body)
    return done
