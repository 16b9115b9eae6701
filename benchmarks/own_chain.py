"""The stage `curate` on WARC files, in a process of its own: `python benchmarks/own_chain.py OUT SETTINGS FILE...`.

SETTINGS are those of `data.curate` as JSON, and `privacy: true` for the search for personal data as well. Units run
one after another in this process, so that processor time can be told. Prints JSON: seconds of processor time from the
start of the process, without those for listing the files, which the stock chain does not do; peak memory in megabytes
of this process, and of its sandbox; and the funnel.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import ClassVar
from unittest import mock

import psutil
from in_process import InProcess

from illada.artifacts import Artifact, NoProgress, StageIdentity, Store
from illada.config import Curate, DataPlacement, Privacy, WarcFiles
from pipelines.acquire import acquire
from pipelines.curate import curate


def chain(output: Path, curation: Curate, privacy: Privacy | None, files: list[Path]) -> dict[str, object]:
    """Curate `files` into the store `output`."""
    store, progress = Store(output), NoProgress()
    before = cpu_seconds()
    source = WarcFiles(name="web", paths=tuple(map(str, files)))
    with store.attempt(StageIdentity(stage="acquire-web", version=1, config=source.identity(), inputs={})) as attempt:
        acquired = store.publish(attempt, acquire(source, attempt, progress), {}, 0.0)
    listing = cpu_seconds() - before
    with (
        mock.patch("pipelines.pool.ActorPool", Measured),
        store.attempt(StageIdentity(stage="curate", version=1, config=curation.identity(), inputs={})) as attempt,
    ):
        statistics = curate(curation, {"web": acquired}, attempt, DataPlacement(), progress, privacy=privacy)
        curated: Artifact = store.publish(attempt, statistics, {}, 0.0)
    return {
        "cpu_seconds": round(cpu_seconds() - listing, 2),
        "megabytes": Measured.megabytes,
        "artifact": str(curated.location),
        "funnel": statistics["funnel"],
    }


class Measured(InProcess):
    """Notes peaks of memory before it is gone."""

    megabytes: ClassVar[dict[str, int]] = {}

    def __exit__(self, *_: object) -> None:
        """See `InProcess`."""
        children = psutil.Process().children(recursive=True)
        self.megabytes |= {"worker": peak(os.getpid()), "sandbox": max(peak(child.pid) for child in children)}


def cpu_seconds() -> float:
    """Of this process and all its children, ended or not: the sandbox of the parsers is one. User and system."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    alive = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(times.user + times.system for times in alive)


def peak(process: int) -> int:
    """The most memory a process ever had, in megabytes; that of the one that started it, which rusage adds, is none."""
    status = Path(f"/proc/{process}/status").read_text()
    return round(int(status.split("VmHWM:")[1].split(None, 1)[0]) / 1024)


if __name__ == "__main__":
    settings = json.loads(sys.argv[2])
    finders = Privacy() if settings.pop("privacy", False) else None
    made = chain(Path(sys.argv[1]), Curate.model_validate(settings), finders, [Path(name) for name in sys.argv[3:]])
    print(json.dumps(made))
