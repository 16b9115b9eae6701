"""`illada status`: every run in one line of a table, or one run with its stages."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from illada.cli.live import amount, describe, duration
from illada.cli.options import Database, Json, database_url, table_console

if TYPE_CHECKING:
    import sqlalchemy as sa

    from illada.durable.client import RunStatus
    from illada.durable.progress import StageStatus

_COLOURS = {"done": "green", "reused": "cyan", "running": "yellow", "failed": "red", "finished": "green"}
_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Examples: illada status  |  illada status demo --watch  |  illada status demo --json")
    def status(
        run_id: Annotated[str | None, typer.Argument(help="A run; all runs without it.", metavar="[RUN]")] = None,
        watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until interrupted.")] = False,
        every: Annotated[bool, typer.Option("--all", help="Also the runs that ended long ago.")] = False,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Runs, their stages, progress inside the stage, and the last error."""
        from illada.durable.client import status as read_status
        from illada.durable.database import open_database

        engine = open_database(database_url(database), create=False)
        if as_json:
            print(json.dumps([run.as_json() for run in read_status(engine, run_id)], indent=1))
            return
        console = table_console()
        if not watch:
            console.print(_render(engine, run_id, every=every))
            return
        try:
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                while True:
                    live.update(_watched(engine, run_id, every=every), refresh=True)
                    time.sleep(1)
        except KeyboardInterrupt:
            return


def _watched(engine: sa.Engine, run_id: str | None, *, every: bool) -> RenderableType:
    from sqlalchemy.exc import SQLAlchemyError

    from illada.durable.database import out_of_reach

    try:
        return _render(engine, run_id, every=every)
    except SQLAlchemyError as error:  # it may come back
        return Text(str(out_of_reach(engine, error)), style="red")


def _render(engine: sa.Engine, run_id: str | None, *, every: bool) -> RenderableType:
    from illada.durable.client import status as read_status

    runs = read_status(engine, run_id)
    return _runs(runs, every=every) if run_id is None else _run(runs[0])


def _runs(runs: list[RunStatus], *, every: bool) -> RenderableType:
    """One line a run: those that are not over come first, then the latest."""
    if not runs:
        return Text("no runs yet; start one: illada run configs/workflows/demo.yaml")
    alive = [run for run in runs if run.state in ("running", "stopping")]
    ordered = alive + [run for run in runs if run not in alive]
    shown = ordered if every else ordered[: max(_SHOWN, len(alive))]
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "stage", "try", "progress", "left", "nodes", "updated"):
        table.add_column(heading, no_wrap=True)
    table.add_column("last error", no_wrap=True, overflow="ellipsis", style="red")
    for run in shown:
        over = run.state == "finished"
        stage = None if over else run.stage
        table.add_row(
            run.run_id,
            Text(run.state, style=_COLOURS.get(run.state, "")),
            stage.stage if stage else "",
            str(stage.attempt or "") if stage else "",
            f"{len(run.stages)} stages" if over else _count(stage) if stage else "",
            duration(stage.eta) if stage else "",
            str(run.nodes or ""),
            f"{duration(max(0.0, time.time() - run.updated))} ago",
            Text(run.error or ""),
        )
    if len(shown) == len(runs):
        return table
    return Group(table, Text(f"and {len(runs) - len(shown)} more: illada status --all", style="dim"))


def _count(stage: StageStatus) -> str:
    if stage.done is None or not stage.unit:
        return ""
    return f"{amount(stage.done)}{f'/{amount(stage.total)}' if stage.total is not None else ''} {stage.unit}"


def _run(run: RunStatus) -> RenderableType:
    """Everything about one run that the database knows, the stages in the order they were reached."""
    parts: list[RenderableType] = [
        Text.assemble(run.run_id, "  ", (run.state, _COLOURS.get(run.state, "yellow")), style="bold")
    ]
    if run.parent:
        parts.append(Text(f"  forked from {run.parent} at {run.fork_stage}"))
    if run.driver:
        host, _, process = run.driver.partition(" ")
        nodes = f" of a cluster of {run.nodes} node{'' if run.nodes == 1 else 's'}" if run.nodes else ""
        parts.append(Text(f"  driven by process {process} on {host}{nodes}, epoch {run.epoch}"))
    if run.job:
        parts.append(Text(f"  job {run.job} at {run.address}"))
    if run.error:
        where = f"{run.failed_stage}: " if run.failed_stage else ""
        parts.append(Text(f"  {where}{run.error}", style="red"))
        parts.append(Text(f"  more: illada logs {run.run_id}{f' {run.failed_stage}' if run.failed_stage else ''}"))
    if run.resume:
        parts.append(Text(f"  go on with: {run.resume}"))
    table = Table(box=None, pad_edge=True)
    for heading in ("stage", "state", "time", "try", "artifact", "progress"):
        table.add_column(heading)
    for stage in run.stages:
        seconds = stage.seconds if stage.seconds is not None else _since(stage.started)
        table.add_row(
            stage.stage,
            Text(stage.state, style=_COLOURS.get(stage.state, "")),
            duration(seconds),
            str(stage.attempt or ""),
            stage.fingerprint[:12],
            Text(stage.error or describe(stage)),
        )
    return Group(*parts, table) if run.stages else Group(*parts)


def _since(started: float | None) -> float | None:
    return None if started is None else time.time() - started
