"""Keeps submitted runs driven: for each wanted run that nothing drives, the next job on its Ray cluster.

A job survives the death of its driver by itself (`illada.durable.supervise`); what ends the job with it (its supervisor
killed, the head node lost, the cluster started anew) is mended here, by whoever calls `tend_once`: `illada scheduler`
for all runs, `illada submit --wait` for its own. Any number of them may work at once: a job's number is taken by
compare-and-set, and jobs that start twice for whatever reason find the run's lease in their way.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from illada.config import ConfigError
from illada.durable.database import clock, runs, stages
from illada.durable.events import record_event
from illada.durable.jobs import JobServer, JobServerError, JobServerUnreachable
from illada.durable.lease import is_held
from illada.durable.package import load_package
from illada.durable.runs import Run, RunRegistry

Notice = Callable[[str], None]

_START_SECONDS = 90.0  # how long the start of a job may take before another one may be tried
_SHORTEST_DELAY, _LONGEST_DELAY = 5.0, 300.0
_GOOD_JOB_SECONDS = 600.0  # a job that lived for longer was no failed start


def want(engine: sa.Engine, run_id: str, **values: Any) -> Run:
    """Have jobs drive the run until it has ended: `tend_once` starts the next one. Returns the run as it is now.

    Args:
        engine: the run database.
        run_id: a run that is not finished.
        values: columns to set with it: `address` and `package` of a run that was never submitted.

    Raises:
        UnknownRun: no such run.
        ConfigError: the run is finished, has no address or package, or its database cannot be reached by a job.
    """
    registry = RunRegistry(engine)
    run = registry.get(run_id)
    address, package = values.get("address", run.address), values.get("package", run.package)
    if run.status == "finished":
        raise ConfigError(f"run {run_id} is finished; there is nothing to go on with")
    if address is None or package is None:
        raise ConfigError(f"run {run_id} was never submitted to a cluster; `illada submit` does that")
    job_environment(engine, address)
    if not run.wanted:
        values |= {"wanted": True, "status": "created", "failed_stage": None, "error": None, "job": None}
    registry.update(run_id, next_job=0.0, job_delay=0.0, **values)
    return registry.get(run_id)


def job_environment(engine: sa.Engine, address: str) -> dict[str, str]:
    """The environment variables of a job. Raises ConfigError when they would carry a password, or name no database."""
    url, patience = engine.url, {"RAY_JOB_STOP_WAIT_TIME_S": "10"}  # `ray job stop` kills after three otherwise
    if url.get_backend_name() == "sqlite":
        if not JobServer(address).local:
            raise ConfigError(
                f"database {url.render_as_string()} is a file of this machine, and {address} is another one: "
                "a cluster needs a PostgreSQL (--database postgresql://user@host/name, or ILLADA_DATABASE)"
            )
        return {"ILLADA_DATABASE": url.render_as_string(), **patience}
    if url.password is not None or "password" in url.query:
        raise ConfigError(
            f"database {url.set(password=None, query={}).render_as_string()}: its URL has a password, which every user "
            "of the cluster could read in the job's metadata; leave it out and give it to this machine and to the "
            "cluster's nodes as PGPASSWORD or in a PGPASSFILE"
        )
    return {"ILLADA_DATABASE": url.set(drivername="postgresql").render_as_string(), **patience}


def tend_once(engine: sa.Engine, run_id: str | None = None, notice: Notice | None = None) -> list[str]:
    """Start a job for every wanted run that nothing drives (or for `run_id` alone); returns the started jobs' ids.

    Clusters that do not answer are left for later. `notice` hears one line for whatever is done or put off.
    """
    tell = notice or (lambda _: None)
    servers: dict[str, JobServer | JobServerError] = {}
    started = []
    for run in RunRegistry(engine).list():
        if not run.wanted or run.status == "finished" or run_id not in (None, run.run_id):
            continue
        if is_held(engine, run.run_id):
            continue
        assert run.address is not None
        server = servers.get(run.address) or _server(run.address)
        servers[run.address] = server
        try:
            if isinstance(server, JobServerError):
                raise server
            job = _tend(engine, run, server, tell)
        except JobServerUnreachable as error:
            servers[run.address] = error
            tell(f"run {run.run_id} waits for its cluster: {error}")
        except (JobServerError, ConfigError) as error:
            RunRegistry(engine).update(run.run_id, error=str(error))
            tell(f"run {run.run_id}: {error}")
        else:
            started += [job] if job is not None else []
    return started


def _server(address: str) -> JobServer | JobServerError:
    try:
        return JobServer(address)
    except JobServerError as error:
        return error


def _tend(engine: sa.Engine, run: Run, server: JobServer, tell: Notice) -> str | None:
    """Look after one run that no driver holds; the id of the job that was started."""
    last = server.job(run.job) if run.job is not None else None
    if last is not None and last.alive:
        return None
    if last is not None and last.state == "stopped":
        _update(engine, run, wanted=False, status="interrupted")
        record_event(engine, run.run_id, "interrupted", f"job {run.job} was stopped")
        tell(f"run {run.run_id}: its job {run.job} was stopped; go on with: illada resume {run.run_id}")
        return None
    now = _now(engine)
    if now < run.next_job:
        return None
    if run.job is not None:
        why = "is gone with its cluster" if last is None else f"{last.state}: {last.message}"
        _update(engine, run, error=f"job {run.job} {why}")
        record_event(engine, run.run_id, "job lost", f"job {run.job} {why}")
    assert run.package is not None and run.address is not None
    working_dir = server.upload(load_package(engine, run.package))
    # Unique on the cluster, which may serve several databases with runs of one name.
    job = f"illada-{run.run_id}-{run.jobs + 1}-{secrets.token_hex(3)}"
    delay = _delay(engine, run, now)
    if not _update(engine, run, jobs=run.jobs + 1, job=job, next_job=now + _START_SECONDS, job_delay=_START_SECONDS):
        return None  # another one was first
    environment = job_environment(engine, run.address)
    entrypoint = f"exec python -m illada.cli.main drive {shlex.quote(run.run_id)} --job {shlex.quote(job)}"
    server.submit(job, entrypoint, {"working_dir": working_dir, "env_vars": environment})
    with engine.begin() as connection:
        mine = sa.update(runs).where(runs.c.run_id == run.run_id, runs.c.job == job)
        connection.execute(mine.values(next_job=now + delay, job_delay=delay))
    record_event(engine, run.run_id, "job", f"{job} at {run.address}")
    tell(f"run {run.run_id}: job {job} started at {run.address}")
    return job


def _delay(engine: sa.Engine, run: Run, now: float) -> float:
    """Seconds from the next job's start to the one after: twice the last, short again after any progress."""
    started = run.next_job - run.job_delay
    if run.job_delay == 0 or now - started > _GOOD_JOB_SECONDS:
        return _SHORTEST_DELAY
    finished = sa.select(sa.func.count()).where(
        stages.c.run_id == run.run_id, stages.c.finished > started, stages.c.state.in_(("done", "reused"))
    )
    with engine.begin() as connection:
        if connection.execute(finished).scalar_one():
            return _SHORTEST_DELAY
    return min(_LONGEST_DELAY, max(_SHORTEST_DELAY, 2 * run.job_delay))


def _now(engine: sa.Engine) -> float:
    with engine.begin() as connection:
        return float(connection.execute(sa.select(clock(engine))).scalar_one())


def _update(engine: sa.Engine, run: Run, **values: Any) -> bool:
    """Set columns, unless somebody has started another job meanwhile or the run is wanted no more."""
    same = (runs.c.run_id == run.run_id, runs.c.jobs == run.jobs, runs.c.wanted)
    with engine.begin() as connection:
        return connection.execute(sa.update(runs).where(*same).values(**values)).rowcount == 1
