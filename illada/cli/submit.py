"""`illada submit`: have a Ray cluster do a run, with the code as it is here; return, or follow it to its end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from illada.cli.live import LiveStages
from illada.cli.options import Database, Json, Overrides, RunId
from illada.config import ConfigError, RunConfig, dump_config

if TYPE_CHECKING:
    import sqlalchemy as sa

    from illada.durable.client import RunStatus
    from illada.durable.progress import StageStatus
    from illada.durable.runs import Run

_FOLLOW_SECONDS = 1.0

Wait = Annotated[bool, typer.Option("--wait", help="Follow the run to its end, and keep it driven meanwhile.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(
        epilog="Example: illada submit my.yaml --address http://HEAD:8265 --database postgresql://illada@db/illada"
    )
    def submit(
        config: Annotated[Path, typer.Argument(help="A workflow configuration (YAML).", metavar="CONFIG")],
        address: Annotated[
            str,
            typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server, as in http://HEAD:8265."),
        ],
        overrides: Overrides = None,
        run_id: RunId = None,
        wait: Wait = False,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Have a Ray cluster do CONFIG; prints the run's id. The same CONFIG again attaches to the run it started."""
        from workflows.registry import load_workflow

        loaded = load_workflow(config, [*(overrides or []), *([f"name={run_id}"] if run_id else [])])
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        engine = checked_database(loaded, address, database)
        run = _submit(engine, loaded, address, console)
        hand_over(engine, run.run_id, console, wait=wait, as_json=as_json)


def hand_over(engine: sa.Engine, run_id: str, console: Console, *, wait: bool, as_json: bool) -> None:
    """Start the next job of a wanted run if it needs one, tell the run's id, and follow it if asked to."""
    from illada.durable.client import status
    from illada.durable.tend import tend_once

    tend_once(engine, run_id, notice=lambda line: console.print(line, markup=False))
    (run,) = status(engine, run_id)
    if as_json:
        print(json.dumps({"run": run_id, "job": run.job, "address": run.address, "state": run.state}, indent=1))
    else:
        print(run_id)
    sys.stdout.flush()
    if wait:
        raise typer.Exit(_follow(engine, run_id, console))
    console.print(f"watch it with: illada status {run_id} --watch", markup=False)


def checked_database(config: RunConfig, address: str, database: str | None) -> sa.Engine:
    """The run database, once everything is checked that can be checked from here."""
    from illada.durable.database import open_database
    from illada.durable.jobs import JobServer
    from illada.durable.tend import job_environment

    store, url = config.placement.store, database or config.placement.database
    if not (Path(store).is_absolute() or store.startswith("s3://")):
        raise ConfigError(
            f"placement.store {store!r}: a cluster needs a place that all its nodes see, an absolute path or s3://..."
        )
    if url is None:
        raise ConfigError(
            "a cluster's run needs a run database that its nodes reach: --database postgresql://user@host/name, "
            "ILLADA_DATABASE or placement.database"
        )
    JobServer(address).check()
    engine = open_database(url)
    job_environment(engine, address)
    return engine


def _submit(engine: sa.Engine, config: RunConfig, address: str, console: Console) -> Run:
    """Register the run and have it wanted, unless it is or is finished."""
    from illada.artifacts.provenance import redact
    from illada.durable.package import build_package, save_package
    from illada.durable.runs import RunRegistry
    from illada.durable.tend import want

    text, store = dump_config(config), config.placement.store
    run = RunRegistry(engine).create(config.name, text, config.identity(), store, sys.argv)
    if run.status == "finished":
        console.print(f"run {run.run_id} is finished; illada report {run.run_id} shows it", markup=False)
        return run
    if run.wanted:
        if run.address != address:
            raise ConfigError(
                f"run {run.run_id} is on the cluster at {run.address}; to move it: illada cancel {run.run_id}, then "
                "submit it again"
            )
        console.print(f"run {run.run_id} was submitted before; attached to it", markup=False)
        return run
    package = build_package()
    save_package(engine, package)
    placed = {"config_yaml": text, "store": store, "argv": json.dumps(redact(sys.argv))}
    return want(engine, run.run_id, address=address, package=package.sha256, **placed)


def _follow(engine: sa.Engine, run_id: str, console: Console) -> int:
    """Show and tend the run until no job drives it any more; the exit code that tells how it ended."""
    from sqlalchemy.exc import SQLAlchemyError

    from illada.durable.client import status
    from illada.durable.runs import RunRegistry
    from illada.durable.tend import tend_once

    told = ""
    shown: dict[str, StageStatus] = {}

    def tell(line: str) -> None:
        nonlocal told
        if line != told:
            console.print(line, markup=False)
        told = line

    with LiveStages(console) as live:
        while True:
            try:
                tend_once(engine, run_id, notice=tell)
                (run,) = status(engine, run_id)
                wanted = RunRegistry(engine).get(run_id).wanted
            except SQLAlchemyError as error:
                tell(f"the run database does not answer ({type(error).__name__}); waiting for it")
            else:
                for stage in run.stages:
                    if shown.get(stage.stage) != stage:
                        live(stage)
                    shown[stage.stage] = stage
                if not wanted and run.driver is None:
                    break
            time.sleep(_FOLLOW_SECONDS)
    return _ending(run, console)


def _ending(run: RunStatus, console: Console) -> int:
    if run.state == "finished":
        console.print(f"run {run.run_id} finished", markup=False)
        return 0
    where = f"stage {run.failed_stage} failed: " if run.failed_stage else ""
    why = f": {where}{run.error}" if run.error else ""
    console.print(f"run {run.run_id} is {run.state}{why}; go on with: {run.resume}", style="bold red", markup=False)
    return 1 if run.state == "failed" else 130
