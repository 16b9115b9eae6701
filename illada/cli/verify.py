"""`illada verify`: check a release folder offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from illada.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada verify out/demo/release")
    def verify(release: Annotated[Path, typer.Argument(help="A release folder.")], as_json: Json = False) -> None:
        """Check every file, the chain of provenance, the gates, the weights and their logits on stored probes."""
        from illada.release.checksums import ReleaseError
        from illada.release.gates import GATES_FILE
        from illada.release.verify import verify as check

        try:
            checks = check(release)
        except ReleaseError as error:
            if not as_json:
                raise
            print(json.dumps({"release": str(release), "sound": False, "error": str(error)}, indent=1))
            raise typer.Exit(1) from None
        if not as_json:
            for found in checks:
                print(f"ok  {found.name}: {found.detail}")
            return
        report = {
            "release": str(release),
            "sound": True,
            "checks": {found.name: found.detail for found in checks},
            "gates": json.loads((release / GATES_FILE).read_text(encoding="utf-8"))["gates"],
        }
        print(json.dumps(report, indent=1, ensure_ascii=False))
