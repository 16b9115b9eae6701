"""`illada decay`."""

from __future__ import annotations

from typing import Annotated

import typer

from illada.cli.options import Database, database_url


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada decay my-run --over 20000")
    def decay(
        run_id: Annotated[str, typer.Argument(help="The run whose training should come to its end.", metavar="RUN")],
        over: Annotated[int, typer.Option(help="Steps over which the learning rate decays.", min=1)],
        database: Database = None,
    ) -> None:
        """Let the learning rate of RUN's training decay from the next step on; the stage ends with it.

        A training that stands still does so when it is resumed. What was decided is not taken back.
        """
        from illada.artifacts import Store
        from illada.config import ConfigError
        from illada.durable.client import status
        from illada.durable.database import open_database
        from illada.durable.runs import RunRegistry
        from illada.train.decay import DECISION, request
        from illada.train.stage import IDENTITY, TRAININGS

        engine = open_database(database_url(database), create=False)
        known = RunRegistry(engine).get(run_id)
        (state,) = status(engine, run_id)
        store = Store(known.store)
        for entry in state.stages:
            if entry.stage not in TRAININGS or not entry.fingerprint or entry.state in ("done", "reused"):
                continue
            work = store.folder(entry.stage, entry.fingerprint) / "work"
            if not work.exists(IDENTITY):
                continue
            if work.exists(DECISION):
                decided = work.read_json(DECISION)
                raise ConfigError(
                    f"run {run_id!r}: {entry.stage} decays already, up to step {decided['total_steps']} "
                    f"({decided['reason']})"
                )
            request(work, over)
            print(f"{entry.stage} of {run_id} decays over {over} steps from its next step on")
            return
        raise ConfigError(f"run {run_id!r}: no training is under way or waits to be resumed")
