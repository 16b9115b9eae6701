"""A pool of long-lived Ray actors that works through units of input, one at a time each, and survives being killed.

A stage gives the pool a list of units and a factory of workers. Every actor builds one worker (so models are loaded
once), runs units with it, and marks each finished one (`pipelines.ledger`): an interrupted stage continues where it
was. Results come back in the order of the units, whatever the number of actors and the order of completion; a worker
whose output depends on its unit alone makes the stage deterministic. A unit that kills three workers ends the stage,
or is quarantined where the stage can do without some of its input (`pipelines.quarantine`).

All actors are asked for at once. Those that find no place are demand to Ray's autoscaler, so a cluster grows to what
`placement.data` asks for; when the pool ends they are gone, and the cluster shrinks.

datatrove's own Ray executor starts an actor and a process pool for every rank and does not raise when one fails.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import ray
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from illada.artifacts import Folder, Progress, scratch_folder
from illada.config import DataPlacement
from pipelines.ledger import Ledger, Results, Unit, UnitResult, mark
from pipelines.quarantine import Quarantine, cause_of

__all__ = ["ActorPool", "PoolError", "Results", "Unit", "UnitResult", "Worker", "run_units"]

_LOSSES_PER_UNIT = 3
_NODES_PER_UNIT = 12  # machines are lost for many reasons; a unit is blamed when it takes one with it each time
_NODE_DIED = "its node has died"  # as Ray words it: an actor's error has no field for it
_POLL_SECONDS = 0.5
_QUEUED = 2  # units an actor has, one of them waiting: the next starts without a word from the driver
_RESERVE = 2  # units an actor that no actor has yet, as long as which some may wait: at the end none waits in vain


class PoolError(RuntimeError):
    """A unit that cannot be finished: its worker raised something unexpected, or its actors died again and again."""


class Worker(Protocol):
    """Lives as long as its actor. Its results must depend on the unit alone, never on the units before."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Work through `unit`, write files into the folder `output`, return JSON statistics."""


@dataclass(eq=False, slots=True)
class _Member:
    """An actor and the calls it has not answered, in the order it works through them; its start has no unit."""

    actor: ActorHandle
    calls: deque[tuple[ray.ObjectRef, Unit | None]] = field(default_factory=deque)
    started: bool = False


class ActorPool:
    """Up to `placement.workers` actors, each with one worker. A context manager: its end is the end of the actors.

    Ray must be running. `factory` is pickled to the actors (a class, or functools.partial of one). Actors start when a
    run first has something to do, and serve all further runs.
    """

    def __init__(self, factory: Callable[[], Worker], placement: DataPlacement) -> None:
        assert ray.is_initialized(), "the caller starts Ray"
        self._factory, self._placement = factory, placement
        self._members: list[_Member] = []
        self._called: dict[ray.ObjectRef, _Member] = {}
        self._pending: deque[Unit] = deque()  # the heaviest last
        self._ledger: Ledger
        self._quarantine: Quarantine
        self._losses: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            ray.kill(member.actor)

    def run(
        self, units: Sequence[Unit], work: Folder, progress: Progress, measure: str, most_quarantined: int = 0
    ) -> Results:
        """Run `units`; results are in their order. `work` is visible to every node.

        `measure` names what the units' weights count, in the plural. The driver's memory holds `units` and some dozens
        of bytes for each of them, but no results. Up to `most_quarantined` units may have no result.

        Raises:
            ValueError, OSError: as raised by a worker, with a note that names the unit.
            PoolError: any other error in a worker, or one more unit than may be quarantined whose actor died three
                times.
            StageInterrupted: from `progress`; finished units stay finished.
        """
        ledger = self._ledger = Ledger(units, work)
        self._quarantine = Quarantine(ledger.unfinished, work, most_quarantined)
        todo = [unit for unit in ledger.unfinished if unit not in self._quarantine]
        self._pending = deque(sorted(todo, key=lambda unit: unit.weight))
        total = sum(unit.weight for unit in units)
        done = total - sum(unit.weight for unit in todo)
        progress.start(total, measure)
        while remaining := len(units) - len(ledger) - len(self._quarantine):
            self._dispatch(work, remaining)
            for unit, line in self._collect():
                ledger.add(unit, line)
                done += unit.weight
            figures = {"quarantined": len(self._quarantine)} if self._quarantine else {}
            progress.update(done, units=f"{len(ledger)}/{len(units)}", **figures)
        return Results(ledger, self._quarantine.units())

    def _dispatch(self, work: Folder, unfinished: int) -> None:
        """Keep as many actors as there is use for, and give units to them.

        Only an actor that has started gets a unit: one that waits for a free CPU must not hold any back. Heavy units
        start first; the one that waits behind another is the lightest, which will be late by the least.
        """
        while len(self._members) < min(self._placement.workers, unfinished):
            member = _Member(ray.remote(**self._resources())(_Actor).remote())
            self._members.append(member)
            self._call(member, member.actor.start.remote(self._factory), None)
        started = [member for member in self._members if member.started]
        for member in started:
            if self._pending and not member.calls:
                unit = self._pending.pop()
                self._call(member, member.actor.run.remote(unit, work), unit)
        for member in started:
            if len(member.calls) < _QUEUED and len(self._pending) > _RESERVE * len(self._members):
                unit = self._pending.popleft()
                self._call(member, member.actor.run.remote(unit, work), unit)

    def _resources(self) -> dict[str, Any]:
        """What Ray sets aside for an actor."""
        options: dict[str, Any] = {"max_restarts": 0, "num_cpus": self._placement.cpus_per_worker}
        if self._placement.memory_gb is not None:
            options["memory"] = int(self._placement.memory_gb * 1e9)
        return options

    def _call(self, member: _Member, reference: ray.ObjectRef, unit: Unit | None) -> None:
        member.calls.append((reference, unit))
        self._called[reference] = member

    def _collect(self) -> list[tuple[Unit, bytes]]:
        """Wait a moment for something to end; returns the units that were finished, with their markers' lines."""
        finished = []
        waiting = list(self._called)
        ready, _ = ray.wait(waiting, timeout=_POLL_SECONDS)
        if ready:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        ended = set(ready)
        for member in dict.fromkeys(self._called[reference] for reference in ready):
            while member.calls and member.calls[0][0] in ended:
                reference, unit = member.calls[0]
                try:
                    line = ray.get(reference)
                except RayTaskError as error:
                    raise _unwrapped(error, unit) from error  # whose text is the worker's traceback
                except (RayActorError, OutOfMemoryError) as error:
                    finished += self._lose(member, error)
                    break
                del self._called[reference]
                member.calls.popleft()
                member.started = True
                if unit is not None:
                    finished.append((unit, line))
        return finished

    def _lose(self, member: _Member, error: RayError) -> list[tuple[Unit, bytes]]:
        """An actor died: forget it and put its units back, unless the one it was at has cost several actors.

        What it had finished without living to tell it comes back like that of `_collect`, and is not blamed.
        """
        ray.kill(member.actor)
        self._members.remove(member)
        for reference, _ in member.calls:
            del self._called[reference]
        units = deque(unit for _, unit in member.calls)
        finished = []
        while units and units[0] and (line := self._ledger.marked(units[0])):
            finished.append((units[0], line))
            units.popleft()
        if units and self._blame(units[0], error):
            units.popleft()
        self._pending.extend(unit for unit in units if unit)
        return finished

    def _blame(self, unit: Unit | None, error: RayError) -> bool:
        """Count the death; whether `unit` is now quarantined."""
        name = unit.name if unit else "starting a worker"
        if _NODE_DIED in str(error):
            self._lost_nodes[name] += 1
            if unit and self._lost_nodes[name] >= _NODES_PER_UNIT:
                raise PoolError(f"{name}: the node it ran on died {_NODES_PER_UNIT} times; the last time: {error}")
            return False
        self._losses[name] += 1
        if self._losses[name] < _LOSSES_PER_UNIT:
            return False
        if unit is None or not self._quarantine.most:
            raise PoolError(f"{name}: its worker process died {self._losses[name]} times; the last time: {error}")
        if not self._quarantine.add(unit, f"{cause_of(error)}, {self._losses[name]} times"):
            raise PoolError(
                f"{len(self._quarantine)} units of input killed their worker {_LOSSES_PER_UNIT} times each, and the "
                f"stage may do without {self._quarantine.most} (max_quarantined): {self._quarantine}; give workers "
                "more memory or take those inputs out; resuming the run tries them again"
            )
        return True


def run_units(
    units: Sequence[Unit],
    factory: Callable[[], Worker],
    work: Folder,
    placement: DataPlacement,
    progress: Progress,
    measure: str,
    most_quarantined: int = 0,
) -> Results:
    """Run `units` on an actor pool of their own; see `ActorPool.run`."""
    with ActorPool(factory, placement) as pool:
        return pool.run(units, work, progress, measure, most_quarantined)


class _Actor:
    """Holds one worker, built by the first call: whatever goes wrong in that reaches the driver as it was raised."""

    _worker: Worker | None = None

    def start(self, factory: Callable[[], Worker]) -> None:
        self._worker = factory()

    def run(self, unit: Unit, work: Folder) -> bytes:
        assert self._worker is not None, "start() comes first"
        return _run_and_mark(self._worker, unit, work)


def _run_and_mark(worker: Worker, unit: Unit, work: Folder) -> bytes:
    folder = work / f"{unit.name}.{uuid.uuid4().hex[:12]}"
    with scratch_folder() if folder.path is None else contextlib.nullcontext(folder.path) as output:
        output.mkdir(parents=True, exist_ok=True)
        try:
            statistics = worker.run(unit, output)
        except BaseException:
            folder.delete_tree()
            raise
        return mark(unit, work, output, folder, statistics)


def _unwrapped(error: RayTaskError, unit: Unit | None) -> BaseException:
    """What the worker raised, without Ray's wrapping (which cannot always be pickled and hides the message)."""
    cause, where = error.cause, f"in unit {unit.name}" if unit else "while a worker started"
    if isinstance(cause, ValueError | OSError):
        cause.add_note(where)
        return cause
    return PoolError(f"{where}: {type(cause).__name__}: {cause}")
