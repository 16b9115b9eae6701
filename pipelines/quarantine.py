"""Units that are given up because they kill every worker that tries them, so that one of them does not end a stage.

Such a unit is named with what killed its workers, and its input is missing from the output: nobody knows how many
documents that was, so no count claims it. A stage says how many it can do without; beyond that it fails.

A marker `quarantined/<unit>.json` in the stage's work folder makes a later attempt leave the unit alone. When a stage
fails for too many, their markers go, so that resuming it, perhaps with more memory, tries all of them again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ray.exceptions import OutOfMemoryError, RayError

from illada.artifacts import Folder, fingerprint
from pipelines.ledger import Quarantined, Unit, parse, sealed, stage_of

_FOLDER = "quarantined"
_SHOWN = 5
_LONGEST = 300  # characters of a cause
_DETAIL = re.compile(r"Worker exit detail: (.*?)(?: Some common causes|$)", re.DOTALL)
_NO_WORD = "End of file"  # as Ray words the end of a process that could not say goodbye


class Quarantine:
    """The units of a stage that were given up; the stage can do without `most` of them."""

    def __init__(self, units: Sequence[Unit], work: Folder, most: int) -> None:
        """Takes over what an earlier attempt gave up, where stage and payload are the same."""
        self.most = most
        self._folder, self._of = work / _FOLDER, stage_of(work)
        self._given_up: dict[str, Quarantined] = {}
        present = self._folder.names() if most else {}
        for unit in units if present else ():
            if f"{unit.name}.json" in present:
                known = parse(self._folder.read_bytes(f"{unit.name}.json"))
                if known and (known["of"], known["payload"]) == (self._of, fingerprint(unit.payload)):
                    self._given_up[unit.name] = Quarantined(unit=unit, cause=known["cause"])

    def __len__(self) -> int:
        return len(self._given_up)

    def __contains__(self, unit: Unit) -> bool:
        return unit.name in self._given_up

    def add(self, unit: Unit, cause: str) -> bool:
        """Give `unit` up. False when that is one too many: then all markers are gone."""
        self._given_up[unit.name] = Quarantined(unit=unit, cause=cause)
        if len(self) > self.most:
            self._folder.delete_tree()
            return False
        content = {"of": self._of, "unit": unit.name, "payload": fingerprint(unit.payload), "cause": cause}
        self._folder.write(f"{unit.name}.json", sealed(content))
        return True

    def units(self) -> list[Quarantined]:
        """What was given up, by the units' names."""
        return [self._given_up[name] for name in sorted(self._given_up)]

    def __str__(self) -> str:
        """The first few, in words."""
        shown = "; ".join(f"{lost.unit.name}: {lost.cause}" for lost in self.units()[:_SHOWN])
        return shown if len(self) <= _SHOWN else f"{shown}; and {len(self) - _SHOWN} more"


def cause_of(death: RayError) -> str:
    """What ended an actor, as far as Ray knows: it sees exit codes and its own kills, but not signals."""
    if isinstance(death, OutOfMemoryError):
        return "out of memory: killed by Ray's memory monitor"
    text = str(death)
    found = _DETAIL.search(text)
    detail = " ".join((found.group(1) if found else text).split())
    if _NO_WORD in detail:
        return "killed by a signal: by the kernel for want of memory, or by a crash such as SIGSEGV"
    return detail[:_LONGEST]
