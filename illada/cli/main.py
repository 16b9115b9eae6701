"""The `illada` command. Each verb lives in its own module; this one wires them and turns errors into one clear line."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from illada.cli import (
    cancel,
    data,
    decay,
    drive,
    fork,
    generate,
    logs,
    plan,
    release,
    report,
    run,
    schedule,
    status,
    submit,
    verify,
)  # fmt: skip

app = typer.Typer(
    help="From raw web crawls to a released diffusion language model, as durable workflows on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
run.register(app)
submit.register(app)
drive.register(app)
fork.register(app)
schedule.register(app)
status.register(app)
logs.register(app)
cancel.register(app)
decay.register(app)
report.register(app)
generate.register(app)
plan.register(app)
release.register(app)
verify.register(app)
data.register(app)


def main() -> None:
    """Entry point: what a user caused is one line and exit code 1; anything else is a bug and keeps its traceback."""
    from illada.durable.errors import RunInterrupted, StageFailed

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except RunInterrupted as error:
        console.print(f"{error}; go on with: illada resume {error.run_id}", style="yellow", markup=False)
        sys.exit(130)
    except (StageFailed, ValueError, OSError) as error:
        if os.environ.get("ILLADA_TRACEBACK"):
            raise
        console.print(f"error: {error}", style="bold red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
