"""`illada report`: a run as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from illada.cli.options import Database, database_url, output_folder, run_config

if TYPE_CHECKING:
    import sqlalchemy as sa

    from illada.report.view import RunView


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada report demo --to report.html")
    def report(
        run_id: Annotated[str, typer.Argument(help="The run to report on.", metavar="RUN")],
        to: Annotated[
            Path | None, typer.Option(help="File to write. Default: report.html in the run's output.")
        ] = None,
        database: Database = None,
    ) -> None:
        """Write RUN's page: chain, curation funnel, mixes, curves, samples, lineage."""
        from illada.durable.database import open_database
        from illada.durable.runs import RunRegistry
        from illada.report.page import write_report

        engine = open_database(database_url(database), create=False)
        known = RunRegistry(engine).get(run_id)
        path = to or output_folder(run_config(known)) / "report.html"
        write_report(view_run(engine, run_id), path)
        print(path)


def view_run(engine: sa.Engine, run_id: str) -> RunView:
    """Everything the page and the summary show, from the run database and the artifact store."""
    from illada.artifacts import Artifact, ArtifactError, Store
    from illada.durable.client import status
    from illada.durable.runs import RunRegistry
    from illada.report.view import RunView, StageView

    known = RunRegistry(engine).get(run_id)
    (state,) = status(engine, run_id)
    store = Store(known.store)

    def artifact(stage: str, fingerprint: str) -> Artifact | None:
        try:
            return store.open(stage, fingerprint) if fingerprint else None
        except ArtifactError:
            return None

    stages = [
        StageView(
            name=stage.stage,
            state=stage.state,
            seconds=stage.seconds,
            reused=stage.reused,
            attempts=stage.attempt,
            error=stage.error,
            artifact=artifact(stage.stage, stage.fingerprint),
        )
        for stage in state.stages
    ]
    return RunView(
        run_id=run_id, state=state.state, config_yaml=known.config_yaml, created=known.created, stages=stages
    )
