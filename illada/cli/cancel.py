"""`illada cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from illada.cli.options import Database, database_url


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada cancel demo")
    def cancel(
        run_id: Annotated[str, typer.Argument(help="The run to stop.", metavar="RUN")], database: Database = None
    ) -> None:
        """Stop RUN within seconds and leave it resumable."""
        from illada.durable.client import cancel as stop
        from illada.durable.database import open_database

        stop(open_database(database_url(database), create=False), run_id)
        print(f"run {run_id} is cancelled; go on with: illada resume {run_id}")
