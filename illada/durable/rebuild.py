"""Building again what exists: some stages of a run have their artifacts taken back when its driver comes to them.

Only then, so that a graph which takes another way the second time loses nothing, and only by the run's driver, which
holds its lease and reaches its store: others leave a request in the run's row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from illada.artifacts import ArtifactError, Store
from illada.config import ConfigError
from illada.durable.client import cancel_workflow, find_stage, status
from illada.durable.errors import RunBusy
from illada.durable.events import record_event
from illada.durable.lease import Lease, build_lease_id
from illada.durable.runs import RunRegistry

_WAIT_SECONDS = 20.0  # for a builder of the artifact that died: its lease ends by itself


def request_rebuild(engine: sa.Engine, run_id: str, stage: str, keep: Sequence[str] = ()) -> list[str]:
    """Have the run's next driver build `stage` and every stage after it again; returns their names, without `keep`.

    Raises:
        UnknownRun: no such run.
        ConfigError: the run has not come to such a stage (names the nearest), or it is one to keep.
        RunBusy: the run has a driver, or a job that may start one.
    """
    (run,) = status(engine, run_id)
    registry = RunRegistry(engine)
    known = registry.get(run_id)
    if run.driver is not None or known.wanted:
        raise RunBusy(f"run {run_id} is at work; stop it first: illada cancel {run_id}")
    position = find_stage(run, stage).position
    names = [other.stage for other in run.stages if other.position >= position and other.fingerprint]
    names = [name for name in names if name not in keep]
    if stage not in names:
        raise ConfigError(f"stage {stage} looks at the sources once for run {run_id}; to look again: a new run")
    registry.update(run_id, rebuild=json.dumps(names), status="created", failed_stage=None, error=None)
    cancel_workflow(engine, known.workflow_id)  # of a killed driver: a history is rewound when nothing goes on with it
    record_event(engine, run_id, "from", f"{', '.join(names)} will be built again")
    return names


def take_back(engine: sa.Engine, store: Store, stage: str, fingerprint: str) -> bool:
    """Take an artifact back, and what is half built of it; whether there was one.

    Raises:
        ArtifactError: another run is building it.
    """
    folder = store.folder(stage, fingerprint)
    try:
        with Lease(engine, build_lease_id(folder), wait=_WAIT_SECONDS):
            return store.retire(stage, fingerprint)
    except RunBusy:
        raise ArtifactError(f"{folder}: is being built by another run; cancel that one first") from None
