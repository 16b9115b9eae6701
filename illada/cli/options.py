"""Options that several commands share, and the way they find the database and the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from illada.config import Placement, RunConfig

if TYPE_CHECKING:
    from illada.durable.runs import Run

_WIDEST = 10_000

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a key: section.key=value; may be repeated.")]
RunId = Annotated[str | None, typer.Option("--run-id", help="Name of the run. Default: the configuration's `name`.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="ILLADA_DATABASE",
        help="URL of the run database (sqlite:///... or postgresql://...). Default: illada.db beside the store, out/.",
    ),
]


def table_console() -> Console:
    """For tables: as wide as the terminal; elsewhere, for `grep` and the like, nothing is cut."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDEST
    return console


def database_url(database: str | None) -> str:
    """The given database, or the default placement's."""
    from illada.durable.database import default_database

    return database or default_database(Placement())


def run_config(run: Run) -> RunConfig:
    """The configuration a run was started with."""
    from workflows.registry import parse_workflow

    return parse_workflow(run.config_yaml, where=f"run {run.run_id}")


def output_folder(config: RunConfig) -> Path:
    """Where a run's summary, report and release go: a folder of the run's name in the placement's output."""
    return Path(config.placement.output).resolve() / config.name
