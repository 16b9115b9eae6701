"""`illada fork`: a run that goes another way from one of its stages on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from illada.cli.options import Database, Json, Overrides, database_url, run_config
from illada.cli.submit import Wait, hand_over
from illada.config import ConfigError, dump_config


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada fork demo --from sft --set sft.epochs=3")
    def fork(
        run_id: Annotated[str, typer.Argument(help="The run to fork.", metavar="RUN")],
        stage: Annotated[str, typer.Option("--from", help="The first stage that may differ.")],
        overrides: Overrides = None,
        here: Annotated[
            bool, typer.Option("--here", help="Drive the fork of a submitted run in this process, not on its cluster.")
        ] = False,
        wait: Wait = False,
        new_id: Annotated[
            str | None, typer.Option("--run-id", help="Name of the new run. Default: RUN-fork-1, -2, ...")
        ] = None,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Start a new run that has every stage before STAGE in common with RUN, and reuses their artifacts.

        The fork of a submitted run goes to the same cluster, with the code as it is here.
        """
        from illada.cli.run import drive
        from illada.durable.client import find_stage, status
        from illada.durable.database import open_database
        from illada.durable.package import build_package, save_package
        from illada.durable.runs import RunRegistry
        from illada.durable.tend import want
        from workflows.fork import fork_config

        engine = open_database(database_url(database), create=False)
        registry = RunRegistry(engine)
        parent = registry.get(run_id)
        (seen,) = status(engine, run_id)
        first = find_stage(seen, stage).position
        before = [known for known in seen.stages if known.position < first]
        unfinished = [known.stage for known in before if known.state not in ("done", "reused")]
        if unfinished:
            raise ConfigError(f"run {run_id} has not finished {unfinished[0]}, which comes before {stage}")
        placed = [f"placement.store={parent.store}", *(overrides or [])]
        name = new_id or _free_id(run_id, [run.run_id for run in registry.list()])
        config, shared = fork_config(run_config(parent), stage, placed, name)
        made = registry.create(
            name,
            dump_config(config),
            config.identity(),
            config.placement.store,
            sys.argv,
            parent=run_id,
            fork_stage=stage,
        )
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"run {name} reuses {', '.join(shared) or 'nothing'} of {run_id}", markup=False)
        if parent.address is None or here:
            drive(engine, made, config, as_json=as_json)
            return
        package = build_package()
        save_package(engine, package)
        want(engine, name, address=parent.address, package=package.sha256)
        hand_over(engine, name, console, wait=wait, as_json=as_json)


def _free_id(run_id: str, taken: list[str]) -> str:
    number = 1
    while f"{run_id}-fork-{number}" in taken:
        number += 1
    return f"{run_id}-fork-{number}"
