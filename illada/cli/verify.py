"""`illada verify`: check a release folder offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada verify out/demo/release")
    def verify(release: Annotated[Path, typer.Argument(help="A release folder.")]) -> None:
        """Check every file, the chain of provenance, the weights and their logits on stored probes."""
        from illada.release.verify import verify as check

        for found in check(release):
            print(f"ok  {found.name}: {found.detail}")
