"""`illada logs`: what happened to a run, and the last output of training ranks that have not finished."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from illada.cli.options import Database, Json, database_url

if TYPE_CHECKING:
    from illada.durable.events import Event
    from illada.durable.progress import StageStatus

_FOLLOW_SECONDS = 1.0
_LAST_LINES = 15
_UNFINISHED = ("running", "failed", "stopped")
_OVER = ("finished", "failed", "cancelled", "interrupted")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Examples: illada logs demo  |  illada logs demo pretrain --follow  |  illada logs demo --json")
    def logs(
        run_id: Annotated[str, typer.Argument(help="A run.", metavar="RUN")],
        stage: Annotated[str | None, typer.Argument(help="One of its stages.", metavar="[STAGE]")] = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """What happened to RUN: drivers, attempts, retries and failures with their tracebacks; times are local ones.

        For a stage that is at work or has failed, also the last lines that its training ranks wrote, where the store
        can be read from here. With --json, an event a line.
        """
        from illada.durable.client import find_stage, status
        from illada.durable.database import open_database
        from illada.durable.events import read_events

        engine = open_database(database_url(database), create=False)
        (run,) = status(engine, run_id)
        shown = run.stage if stage is None else find_stage(run, stage)
        after = 0
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                (run,) = status(engine, run_id)
                for event in read_events(engine, run_id, stage=stage, after=after):
                    after = event.id
                    print(json.dumps(asdict(event)) if as_json else _line(event), flush=True)
                if not follow or run.state in _OVER:
                    break
                time.sleep(_FOLLOW_SECONDS)
        if shown is not None and shown.state in _UNFINISHED and not (as_json or follow):
            for line in _rank_logs(run.store, shown):
                print(line)


def _rank_logs(store: str, stage: StageStatus) -> Iterator[str]:
    """The last lines of every rank's log of an unfinished training stage; none where the store is out of reach."""
    from illada.artifacts import Store

    folder = Store(store).folder(stage.stage, stage.fingerprint) / "work" / "logs"
    try:
        logs = {name: folder.read_bytes(name) for name in folder.names("rank-")}
    except OSError as error:
        yield f"the ranks' logs at {folder} cannot be read from here ({error})"
        return
    for name, data in logs.items():
        lines = data.decode(errors="replace").splitlines()
        if lines:
            yield f"{folder}/{name}"
            yield from (f"    {line}" for line in lines[-_LAST_LINES:])


def _line(event: Event) -> str:
    when = f"{datetime.fromtimestamp(event.at):%Y-%m-%d %H:%M:%S}"
    first, *rest = event.text.splitlines() or [""]
    line = "  ".join(part for part in (when, event.stage, event.kind, first) if part)
    return "\n".join([line, *(f"    {more}" for more in rest)])
