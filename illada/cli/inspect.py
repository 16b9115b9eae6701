"""`illada status` and `illada cancel`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from illada.cli.live import describe, duration
from illada.cli.options import Database, Json, database_url

if TYPE_CHECKING:
    from illada.durable.client import RunStatus

_COLOURS = {"done": "green", "reused": "cyan", "running": "yellow", "failed": "red", "finished": "green"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @app.command(epilog="Examples: illada status  |  illada status demo --watch  |  illada status demo --json")
    def status(
        run_id: Annotated[str | None, typer.Argument(help="A run; all runs without it.", metavar="[RUN]")] = None,
        watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until interrupted.")] = False,
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
        console = Console(highlight=False)
        if not watch:
            console.print(_render(read_status(engine, run_id), detailed=run_id is not None))
            return
        try:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(_render(read_status(engine, run_id), detailed=run_id is not None), refresh=True)
                    time.sleep(1)
        except KeyboardInterrupt:
            return

    @app.command(epilog="Example: illada cancel demo")
    def cancel(
        run_id: Annotated[str, typer.Argument(help="The run to stop.", metavar="RUN")], database: Database = None
    ) -> None:
        """Stop RUN within seconds and leave it resumable."""
        from illada.durable.client import cancel as stop
        from illada.durable.database import open_database

        stop(open_database(database_url(database), create=False), run_id)
        print(f"run {run_id} is cancelled; go on with: illada resume {run_id}")


def _render(runs: list[RunStatus], *, detailed: bool) -> Group | Text:
    if not runs:
        return Text("no runs yet; start one: illada run configs/workflows/demo.yaml")
    parts: list[Table | Text] = []
    for run in runs:
        parts.append(Text.assemble(run.run_id, "  ", (run.state, _COLOURS.get(run.state, "yellow")), style="bold"))
        if run.error:
            parts.append(Text(f"  {run.error}", style="red"))
        if run.resume:
            parts.append(Text(f"  go on with: {run.resume}"))
        shown = run.stages if detailed else [stage for stage in run.stages if stage.state == "running"]
        table = Table(box=None, show_header=detailed, pad_edge=True)
        for heading in ("stage", "state", "time", "try", "artifact", "progress"):
            table.add_column(heading)
        for stage in shown:
            seconds = stage.seconds if stage.seconds is not None else _since(stage.started)
            table.add_row(
                stage.stage,
                Text(stage.state, style=_COLOURS.get(stage.state, "")),
                duration(seconds),
                str(stage.attempt or ""),
                stage.fingerprint[:12],
                stage.error or describe(stage),
            )
        if shown:
            parts.append(table)
    return Group(*parts)


def _since(started: float | None) -> float | None:
    return None if started is None else time.time() - started
