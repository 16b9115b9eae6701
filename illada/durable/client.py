"""Looking at runs and stopping them from any process: needs the database only, no driver, no Ray, no DBOS start-up."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from illada.config import ConfigError
from illada.durable.database import clock, leases
from illada.durable.errors import nearest
from illada.durable.events import record_event
from illada.durable.lease import request_stop
from illada.durable.progress import StageStatus, read_all_stages, read_stages
from illada.durable.runs import Run, RunRegistry


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """A run as seen from outside.

    `state`: created, running (its driver is alive), stopping, waiting (submitted: its next job or driver is being
    started), stopped (its driver died; resume it), finished, failed, interrupted or cancelled. `resume` is the command
    that continues it, None where there is nothing to continue. `driver` (host and process id) and `nodes` of its Ray
    cluster are those of a live one; `address` and `job` are of a run that was submitted, `parent` and `fork_stage` of a
    forked one.
    """

    run_id: str
    state: str
    fingerprint: str
    store: str
    created: float
    updated: float
    driver: str | None
    nodes: int | None
    address: str | None
    job: str | None
    parent: str | None
    fork_stage: str | None
    epoch: int
    generation: int
    stages: list[StageStatus]
    failed_stage: str | None
    error: str | None
    result: dict[str, Any] | None
    resume: str | None

    @property
    def stage(self) -> StageStatus | None:
        """Where the run is: the stage at work or the one it did not get through, else the last it has reached."""
        reached = [stage for stage in self.stages if stage.state != "pending"]
        at_work = [stage for stage in reached if stage.state in ("running", "failed", "stopped")]
        return next(reversed(at_work or reached), None)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def status(engine: sa.Engine, run_id: str | None = None) -> list[RunStatus]:
    """The run of this id, or all runs, the latest touched first. Raises UnknownRun."""
    registry = RunRegistry(engine)
    runs = registry.list() if run_id is None else [registry.get(run_id)]
    now = clock(engine)
    query = sa.select(leases.c.run_id, leases.c.holder, leases.c.epoch, leases.c.stop, leases.c.expires >= now)
    with engine.begin() as connection:
        held = {row[0]: row[1:] for row in connection.execute(query)}
    live = {name for name, lease in held.items() if lease[3]}
    stages = read_all_stages(engine, live) if run_id is None else {run_id: read_stages(engine, run_id, run_id in live)}
    return [_status(run, stages.get(run.run_id, []), *held.get(run.run_id, ("", 0, False, False))) for run in runs]


def find_stage(run: RunStatus, stage: str) -> StageStatus:
    """The stage of this name. Raises ConfigError naming the nearest of those the run has reached."""
    reached = {known.stage: known for known in run.stages if known.fingerprint}
    if stage not in reached:
        raise ConfigError(
            f"run {run.run_id} has not come to a stage {stage!r}; {nearest(stage, list(reached), 'stages')}"
        )
    return reached[stage]


def cancel(engine: sa.Engine, run_id: str, wait: float = 30.0) -> RunStatus:
    """Stop the run and leave it resumable; returns its state after at most `wait` seconds. Raises UnknownRun.

    A live driver is asked to stop and does the rest itself; the history of a run without one is marked here, so that
    nothing takes it up again unasked.
    """
    registry = RunRegistry(engine)
    run = registry.get(run_id)
    registry.update(run_id, wanted=False)  # before its driver is asked: one that starts now hears no request
    record_event(engine, run_id, "asked to stop", f"by process {os.getpid()} on {socket.gethostname()}")
    deadline = time.monotonic() + wait
    while request_stop(engine, run_id):
        if time.monotonic() > deadline:
            return status(engine, run_id)[0]
        time.sleep(0.2)
    run = registry.get(run_id)
    if run.status in ("created", "running", "interrupted"):
        cancel_workflow(engine, run.workflow_id)
        registry.update(run_id, status="cancelled")
    return status(engine, run_id)[0]


def cancel_workflow(engine: sa.Engine, workflow_id: str) -> None:
    """Have DBOS go on with a workflow only when asked to; no effect on one that has ended."""
    if not sa.inspect(engine).has_table("workflow_status", schema=_dbos_schema(engine)):
        return  # no driver has ever started here
    from dbos import DBOSClient, DBOSPortableJSONSerializer

    client = DBOSClient(
        system_database_url=engine.url.render_as_string(hide_password=False),
        serializer=DBOSPortableJSONSerializer(),
    )
    try:
        client.cancel_workflow(workflow_id)
    finally:
        client.destroy()


def _dbos_schema(engine: sa.Engine) -> str | None:
    return "dbos" if engine.dialect.name == "postgresql" else None


def _status(run: Run, stages: list[StageStatus], holder: str, epoch: int, stop: bool, live: bool) -> RunStatus:
    state = run.status
    if live:
        state = "stopping" if stop else "running"
    elif run.wanted:
        state = "waiting"
    elif state == "running":
        state = "stopped"
    return RunStatus(
        run_id=run.run_id,
        state=state,
        fingerprint=run.fingerprint,
        store=run.store,
        created=run.created,
        updated=max([run.updated, *(stage.updated for stage in stages)]),
        driver=" ".join(holder.split(" ")[:2]) if live else None,
        nodes=run.nodes if live else None,
        address=run.address,
        job=run.job,
        parent=run.parent,
        fork_stage=run.fork_stage,
        epoch=epoch,
        generation=run.generation,
        stages=stages,
        failed_stage=run.failed_stage,
        error=run.error,
        result=None if run.result is None else dict(run.result),
        resume=None if live or state in ("waiting", "finished") else f"illada resume {run.run_id}",
    )
