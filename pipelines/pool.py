"""A pool of long-lived Ray actors that works through units of input, one at a time each, and survives being killed.

A stage gives the pool a list of units and a factory of workers. Every actor builds one worker (so models are loaded
once), runs units with it, and marks each finished one. Completion is one atomic file, `<unit>.json` in the stage's work
folder, which names the unit's payload, output folder and checksums: the next attempt takes finished units over after
checking them, so an interrupted stage continues where it was. Results come back in the order of the units, whatever the
number of actors and the order of completion; a worker whose output depends on its unit alone makes the stage
deterministic.

datatrove's own Ray executor starts an actor and a process pool for every rank and does not raise when one fails.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import ray
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from illada.artifacts import Progress, fingerprint, sha256_file, write_json
from illada.config import DataPlacement

_LOSSES_PER_UNIT = 3
_POLL_SECONDS = 0.5


class PoolError(RuntimeError):
    """A unit that cannot be finished: its worker raised something unexpected, or its actors died again and again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One piece of a stage's input. `name` is unique and safe as a file name; `payload` is plain JSON.

    `weight` is what progress counts, in the stage's own measure (documents, bytes); heavy units start first.
    """

    name: str
    payload: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
    """A finished unit: the folder of files its worker wrote, and the statistics it returned."""

    name: str
    folder: Path
    statistics: dict[str, Any]


class Worker(Protocol):
    """Lives as long as its actor. Its results must depend on the unit alone, never on the units before."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Work through `unit`, write files into the folder `output`, return JSON statistics."""


class ActorPool:
    """Up to `placement.workers` actors, each with one worker. A context manager: its end is the end of the actors.

    Ray must be running. `factory` is pickled to the actors (a class, or functools.partial of one). Actors start when a
    run first has something to do, and serve all further runs.
    """

    def __init__(self, factory: Callable[[], Worker], placement: DataPlacement) -> None:
        assert ray.is_initialized(), "the caller starts Ray"
        self._factory, self._placement = factory, placement
        self._actors: list[ActorHandle] = []
        self._idle: list[ActorHandle] = []
        self._starting: dict[ray.ObjectRef, ActorHandle] = {}
        self._running: dict[ray.ObjectRef, tuple[ActorHandle, Unit]] = {}
        self._pending: list[Unit] = []
        self._losses: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def run(self, units: Sequence[Unit], work: Path, progress: Progress, measure: str) -> list[UnitResult]:
        """Run `units`; results are in their order. `work` must be visible to every node.

        `measure` names what the units' weights count, in the plural.

        Raises:
            ValueError, OSError: as raised by a worker, with a note that names the unit.
            PoolError: any other error in a worker, or a unit whose actor died three times.
            StageInterrupted: from `progress`; finished units stay finished.
        """
        assert len({unit.name for unit in units}) == len(units), "unit names must be unique"
        done = {unit.name: result for unit in units if (result := _finished(unit, work)) is not None}
        weights = {unit.name: unit.weight for unit in units}
        self._pending = sorted((unit for unit in units if unit.name not in done), key=lambda unit: unit.weight)
        progress.start(sum(weights.values()), measure)
        while self._pending or self._running:
            self._dispatch(work)
            done.update((result.name, result) for result in self._collect(work))
            progress.update(sum(weights[name] for name in done), units=f"{len(done)}/{len(units)}")
        return [done[unit.name] for unit in units]

    def _dispatch(self, work: Path) -> None:
        """Keep as many actors as there is use for, and give units to idle ones.

        Only an actor that has started gets a unit: one that waits for a free CPU must not hold any back.
        """
        while len(self._actors) < min(self._placement.workers, len(self._pending) + len(self._running)):
            options = {"max_restarts": 0, "num_cpus": self._placement.cpus_per_worker}
            actor = ray.remote(**options)(_Actor).remote()
            self._actors.append(actor)
            self._starting[actor.start.remote(self._factory)] = actor
        while self._pending and self._idle:
            unit, actor = self._pending.pop(), self._idle.pop()
            self._running[actor.run.remote(unit, work)] = (actor, unit)

    def _collect(self, work: Path) -> list[UnitResult]:
        """Wait a moment for something to end, and note what did."""
        results = []
        ready, _ = ray.wait([*self._starting, *self._running], timeout=_POLL_SECONDS)
        for reference in ready:
            actor, unit = self._running.pop(reference, None) or (self._starting.pop(reference), None)
            try:
                marker = ray.get(reference)
            except RayTaskError as error:
                raise _unwrapped(error, unit) from error  # whose text is the worker's traceback
            except (RayActorError, OutOfMemoryError) as error:
                self._lose(actor, unit, error)
                continue
            self._idle.append(actor)
            if unit is not None:
                results.append(_result(unit, work, marker))
        return results

    def _lose(self, actor: ActorHandle, unit: Unit | None, error: RayError) -> None:
        """An actor died: forget it and put its unit back, unless that unit has cost several."""
        ray.kill(actor)
        self._actors.remove(actor)
        name = unit.name if unit else "starting a worker"
        self._losses[name] += 1
        if self._losses[name] >= _LOSSES_PER_UNIT:
            raise PoolError(f"{name}: its worker process died {self._losses[name]} times; the last time: {error}")
        if unit:
            self._pending.append(unit)


def run_units(
    units: Sequence[Unit],
    factory: Callable[[], Worker],
    work: Path,
    placement: DataPlacement,
    progress: Progress,
    measure: str,
) -> list[UnitResult]:
    """Run `units` on an actor pool of their own; see `ActorPool.run`."""
    with ActorPool(factory, placement) as pool:
        return pool.run(units, work, progress, measure)


class _Actor:
    """Holds one worker, built by the first call: whatever goes wrong in that reaches the driver as it was raised."""

    _worker: Worker | None = None

    def start(self, factory: Callable[[], Worker]) -> None:
        self._worker = factory()

    def run(self, unit: Unit, work: Path) -> dict[str, Any]:
        assert self._worker is not None, "start() comes first"
        return _run_and_mark(self._worker, unit, work)


def _run_and_mark(worker: Worker, unit: Unit, work: Path) -> dict[str, Any]:
    output = work / f"{unit.name}.{uuid.uuid4().hex[:12]}"
    output.mkdir(parents=True)
    try:
        statistics = worker.run(unit, output)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    files = []
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        name = path.relative_to(output).as_posix()
        files.append({"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)})
    marker = {"payload": fingerprint(unit.payload), "folder": output.name, "files": files, "statistics": statistics}
    write_json(work / f"{unit.name}.json", marker)
    return marker


def _finished(unit: Unit, work: Path) -> UnitResult | None:
    """The unit's result when its marker belongs to this payload and every file is as it was written."""
    path = work / f"{unit.name}.json"
    if not path.exists():
        return None
    marker = json.loads(path.read_text(encoding="utf-8"))
    folder = work / marker["folder"]
    intact = marker["payload"] == fingerprint(unit.payload) and all(
        (folder / file["name"]).is_file() and sha256_file(folder / file["name"]) == file["sha256"]
        for file in marker["files"]
    )
    return _result(unit, work, marker) if intact else None


def _result(unit: Unit, work: Path, marker: Mapping[str, Any]) -> UnitResult:
    return UnitResult(name=unit.name, folder=work / str(marker["folder"]), statistics=dict(marker["statistics"]))


def _unwrapped(error: RayTaskError, unit: Unit | None) -> BaseException:
    """What the worker raised, without Ray's wrapping (which cannot always be pickled and hides the message)."""
    cause, where = error.cause, f"in unit {unit.name}" if unit else "while a worker started"
    if isinstance(cause, ValueError | OSError):
        cause.add_note(where)
        return cause
    return PoolError(f"{where}: {type(cause).__name__}: {cause}")
