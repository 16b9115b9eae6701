"""`illada plan`: parameters, memory, FLOPs, GPU-hours and storage before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from illada.cli.options import Json

Path_ = Annotated[Path, typer.Argument(help="A workflow configuration (YAML).", metavar="CONFIG")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada plan configs/workflows/illada-8b.yaml --devices 512 --mfu 0.4")
    def plan(
        config: Path_,
        devices: Annotated[int, typer.Option(help="Accelerators in the cluster.", min=1)] = 256,
        mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation expected, 0 to 1.", min=0.01, max=1.0)] = 0.4,
        as_json: Json = False,
    ) -> None:
        """Parameters, memory a rank, FLOPs, GPU-hours, storage and checkpoint cadence of CONFIG; starts nothing."""
        from illada.config import WorkflowConfig, load_config
        from illada.train.plan import Cluster, print_plan
        from illada.train.plan import plan as make_plan

        made = make_plan(load_config(config, WorkflowConfig), Cluster(devices=devices, mfu=mfu))
        print_plan(made, as_json=as_json)
