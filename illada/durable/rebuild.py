"""Building again what exists: from a stage on, the artifacts of a run are taken back before it goes on.

Only the run's driver, which holds its lease and reaches its store, does so; others leave a request in the run's row. A
driver killed half way does the rest when it is resumed: the request goes last.
"""

from __future__ import annotations

import sqlalchemy as sa

from illada.artifacts import ArtifactError, Store
from illada.durable.client import find_stage, status
from illada.durable.errors import RunBusy
from illada.durable.events import record_event
from illada.durable.lease import Lease
from illada.durable.progress import read_stages
from illada.durable.runs import Run, RunRegistry
from illada.durable.stages import build_lease_id

_WAIT_SECONDS = 20.0  # for a builder of one of the artifacts that died: its lease ends by itself


def request_rebuild(engine: sa.Engine, run_id: str, stage: str) -> list[str]:
    """Have the run's next driver build `stage` and every stage after it again; returns their names.

    Raises:
        UnknownRun: no such run.
        ConfigError: the run has not come to such a stage; names the nearest.
        RunBusy: the run has a driver, or a job that may start one.
    """
    (run,) = status(engine, run_id)
    registry = RunRegistry(engine)
    if run.driver is not None or registry.get(run_id).wanted:
        raise RunBusy(f"run {run_id} is at work; stop it first: illada cancel {run_id}")
    position = find_stage(run, stage).position
    registry.update(run_id, rebuild_from=stage, status="created", failed_stage=None, error=None)
    names = [known.stage for known in run.stages if known.position >= position and known.state != "pending"]
    record_event(engine, run_id, "from", f"{', '.join(names)} will be built again")
    return names


def retire_requested(engine: sa.Engine, run: Run, epoch: int) -> None:
    """What `request_rebuild` asked for, if it did; for the run's driver, before it goes through the graph.

    Raises:
        ArtifactError: another run is building one of the artifacts.
    """
    if run.rebuild_from is None:
        return
    stages = read_stages(engine, run.run_id, live=True)
    first = next(stage.position for stage in stages if stage.stage == run.rebuild_from)
    store = Store(run.store)
    for stage in reversed(stages):  # a stage after one that is gone must not be found by its fingerprint
        if stage.position < first or not stage.fingerprint:
            continue
        folder = store.folder(stage.stage, stage.fingerprint)
        try:
            with Lease(engine, build_lease_id(folder), wait=_WAIT_SECONDS):
                retired = store.retire(stage.stage, stage.fingerprint)
        except RunBusy:
            raise ArtifactError(f"{folder}: is being built by another run; cancel that one first") from None
        if retired:
            record_event(engine, run.run_id, "taken back", stage.fingerprint[:12], stage=stage.stage, epoch=epoch)
    RunRegistry(engine).update(run.run_id, rebuild_from=None)
