"""`illada plan`: parameters, memory, FLOPs, device hours and storage before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from illada.cli.dry_run import dry_run_table
from illada.cli.live import amount, byte_size, duration
from illada.cli.mixture import mixture_table
from illada.cli.options import Json, table_console

if TYPE_CHECKING:
    from illada.train.plan import Plan, TrainingPlan


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog="Example: illada plan configs/workflows/illada-8b.yaml --devices 512 --mfu 0.4")
    def plan(
        config: Annotated[Path, typer.Argument(help="A workflow configuration (YAML).", metavar="CONFIG")],
        devices: Annotated[int, typer.Option(help="Accelerators in the cluster.", min=1)] = 256,
        memory: Annotated[float, typer.Option(help="Memory of one, in GB.", min=1.0)] = 80.0,
        tflops: Annotated[float, typer.Option(help="Dense bfloat16 peak of one, in TFLOP/s.", min=0.001)] = 989.0,
        mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation expected.", min=0.001, max=1.0)] = 0.4,
        mtbf: Annotated[
            float, typer.Option(help="Failure rate: mean hours between failures of one accelerator.", min=0.001)
        ] = 50_000.0,
        restart: Annotated[float, typer.Option(help="Minutes from a failure to the next step.", min=0.001)] = 10.0,
        write: Annotated[float, typer.Option(help="Checkpoint storage takes so many GB/s in all.", min=0.001)] = 5.0,
        dry_run: Annotated[
            bool,
            typer.Option(
                "--dry-run",
                help="Build every rank, without its memory, run a step of it, and fail if the plan is 5% off.",
            ),
        ] = False,
        as_json: Json = False,
    ) -> None:
        """Parameters, memory a rank, FLOPs, device hours, storage and checkpoint cadence of CONFIG; starts no run."""
        from illada.config import ConfigError, WorkflowConfig
        from illada.train.dry_run import build_ranks, check, reports
        from illada.train.plan import Cluster
        from illada.train.plan import plan as make_plan
        from workflows.mixtures import planned_mixture
        from workflows.registry import load_workflow

        loaded = load_workflow(config)
        if not isinstance(loaded, WorkflowConfig):
            raise ConfigError(f"{config}: workflow {loaded.workflow!r} trains nothing, so there is nothing to plan")

        cluster = Cluster(
            devices=devices,
            device_memory_gb=memory,
            peak_tflops=tflops,
            mfu=mfu,
            mtbf_hours=mtbf,
            restart_minutes=restart,
            write_gb_per_second=write,
        )
        made, mixture = make_plan(loaded, cluster), planned_mixture(loaded)
        built = build_ranks(loaded) if dry_run else {}
        ranks = reports(loaded, built) if built else []
        if as_json:
            extra = {"mixture": mixture, "dry_run": [report.as_json() for report in ranks]}
            print(json.dumps(made.as_json() | {name: value for name, value in extra.items() if value}, indent=1))
        else:
            _print(made)
            if mixture:
                Console(highlight=False).print(mixture_table(mixture, trained=False))
            if ranks:
                table_console().print(dry_run_table(ranks))
        if built:
            check(loaded, built)


def _print(plan: Plan) -> None:
    console = Console(highlight=False)
    count = plan.parameters
    console.print(
        f"[bold]{plan.name}[/bold]: {amount(count.total)} parameters, "
        f"{amount(count.non_embedding)} without embeddings, {amount(count.active)} active\n"
        f"on {plan.cluster.devices} devices of {plan.cluster.device_memory_gb:g} GB at {plan.cluster.mfu:.0%} MFU, "
        f"one failure in {plan.cluster.mtbf_hours / plan.cluster.devices:.3g} h"
    )
    table = Table(box=None, pad_edge=True)
    for heading in ("", "pretrain", "sft"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, first, second in zip(_LABELS, _column(plan.pretrain), _column(plan.sft), strict=True):
        table.add_row(label, first, second)
    for part in plan.pretrain.memory_per_rank:
        if part == "pipeline_stage":  # which stage these figures are of: the one with the most
            continue
        first, second = (byte_size(made.memory_per_rank[part]) for made in (plan.pretrain, plan.sft))
        table.add_row(f"memory a rank: {part.replace('_', ' ')}", first, second)
    console.print(table)
    console.print(
        "storage: " + ", ".join(f"{stage} {byte_size(size)}" for stage, size in plan.storage.items()), soft_wrap=True
    )
    for line in plan.assumptions:
        console.print(f"assumed: {line}", style="dim", markup=False, soft_wrap=True)
    for line in plan.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


_LABELS = (
    "ranks", "tokens a step", "steps", "tokens", "FLOPs", "time a step", "device hours", "days", "days with failures",
    "checkpoint", "checkpoint every (configured / best)", "time lost to failures and checkpoints",
)  # fmt: skip


def _column(made: TrainingPlan) -> tuple[str, ...]:
    checkpoint = made.checkpoint
    days = [f"{value:.3g}" if value is not None else "?" for value in (made.days, made.days_with_failures)]
    return (
        str(made.ranks),
        amount(made.tokens_per_step),
        amount(made.steps) or "?",
        amount(made.tokens) or "?",
        f"{made.flops:.3g}" if made.flops is not None else "?",
        f"{made.seconds_per_step:.3g} s",
        amount(made.device_hours) or "?",
        *days,
        f"{byte_size(checkpoint.bytes)} in {duration(checkpoint.seconds)}",
        f"{checkpoint.interval_steps} / {checkpoint.best_interval_steps} steps",
        f"{checkpoint.lost_fraction:.2%}",
    )
