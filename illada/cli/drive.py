"""`illada drive`: what a Ray job runs; people use `illada submit`, `run` and `resume`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from illada.cli.options import Database, database_url, run_config
from illada.config import ConfigError, RunConfig

if TYPE_CHECKING:
    import sqlalchemy as sa

    from illada.durable.runs import Run

_TTL_SECONDS = 60.0  # an outage of the database for half a minute is ridden out
_WAIT_SECONDS = 75.0  # longer than a lease that a lost driver left behind


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(hidden=True)
    def drive(
        run_id: Annotated[str, typer.Argument(metavar="RUN")],
        job: Annotated[str | None, typer.Option(help="This job's id: it ends when the run has a newer one.")] = None,
        parent: Annotated[int | None, typer.Option(help="The supervisor this driver is a child of.")] = None,
        database: Database = None,
    ) -> None:
        """Keep a driver of RUN alive in this job until the run has ended (or be that driver)."""
        from illada.durable.supervise import end_with_parent, supervise

        url = database_url(database)
        if parent is not None:
            end_with_parent(parent)
            _drive(url, run_id, job)
            return
        os.environ["ILLADA_DATABASE"] = url
        command = [sys.executable, "-m", "illada.cli.main", "drive", run_id, *(["--job", job] if job else [])]
        raise typer.Exit(supervise(url, run_id, job, command))


def _drive(url: str, run_id: str, job: str | None) -> None:
    from illada.durable.database import open_database
    from illada.durable.runs import RunRegistry
    from illada.durable.supervise import guard

    engine = open_database(url, create=False)
    run = RunRegistry(engine).get(run_id)
    check = guard(job)
    check(run)
    try:
        config = _prepare(engine, run)
    except ConfigError as error:
        _fail(engine, run_id, error)
        raise
    from illada.cli.run import conclude, perform

    perform(engine, run, config, Console(highlight=False), guard=check, ttl=_TTL_SECONDS, wait=_WAIT_SECONDS)
    if Path(config.placement.output).is_absolute():
        conclude(engine, run_id, config)


def _prepare(engine: sa.Engine, run: Run) -> RunConfig:
    """The run's configuration, on this job's cluster; before any library is loaded whose version might not fit."""
    from illada.durable.package import check_environment, load_package

    if run.package is not None:
        check_environment(load_package(engine, run.package))
    config = run_config(run)
    return config.model_copy(update={"placement": config.placement.model_copy(update={"ray_address": "auto"})})


def _fail(engine: sa.Engine, run_id: str, error: ConfigError) -> None:
    from illada.durable.events import record_event
    from illada.durable.lease import Lease
    from illada.durable.runs import RunRegistry

    with Lease(engine, run_id, ttl=_TTL_SECONDS, wait=_WAIT_SECONDS) as lease:
        RunRegistry(engine).update(run_id, status="failed", failed_stage=None, error=str(error), wanted=False)
        record_event(engine, run_id, "failed", str(error), epoch=lease.epoch)
