"""A plan on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from illada.train.plan import Plan, TrainingPlan


def print_plan(made: Plan, *, as_json: bool = False) -> None:
    """Print a plan as tables for people, or as JSON."""
    if as_json:
        print(json.dumps(made.as_json(), indent=1))
        return
    console = Console(highlight=False)
    count, cluster = made.parameters, made.cluster
    console.print(
        f"[bold]{made.name}[/bold]  {_si(count.total)} parameters, {_si(count.non_embedding)} without embeddings; "
        f"{cluster.devices} devices of {cluster.device_memory_gb:g} GB and {cluster.peak_tflops:g} TFLOP/s "
        f"at MFU {cluster.mfu:g}"
    )
    stages = (made.pretrain, made.sft)
    table = Table("", "pretrain", "sft", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title, cells in _rows(stages):
        table.add_row(title, *cells)
    console.print(table)
    console.print("storage  " + ", ".join(f"{name} {_si(size)}B" for name, size in made.storage.items()))
    for text in made.assumptions:
        console.print(f"assumed  {text}", style="dim")
    for text in made.warnings:
        console.print(f"warning  {text}", style="yellow")


def _rows(stages: Sequence[TrainingPlan]) -> Iterator[tuple[str, list[str]]]:
    yield "tokens a step", [_si(stage.tokens_per_step) for stage in stages]
    yield "steps", [_si(stage.steps) for stage in stages]
    yield "tokens", [_si(stage.tokens) for stage in stages]
    yield "FLOPs a token", [_si(stage.flops_per_token) for stage in stages]
    yield "FLOPs", ["unknown" if stage.flops is None else f"{stage.flops:.3g}" for stage in stages]
    yield "seconds a step", [f"{stage.seconds_per_step:.3g}" for stage in stages]
    yield "device hours", [_si(stage.device_hours) for stage in stages]
    yield "days", ["unknown" if stage.days is None else f"{stage.days:.3g}" for stage in stages]
    yield (
        "days with failures",
        ["unknown" if stage.days_with_failures is None else f"{stage.days_with_failures:.3g}" for stage in stages],
    )
    for part in stages[0].memory_per_rank:
        if part != "pipeline_stage":
            yield (
                f"memory a rank, {part.replace('_', ' ')}",
                [_si(stage.memory_per_rank[part]) + "B" for stage in stages],
            )
    yield "checkpoint", [f"{_si(stage.checkpoint.bytes)}B, {stage.checkpoint.seconds:.3g} s" for stage in stages]
    yield (
        "checkpoint every",
        [f"{stage.checkpoint.interval_steps} steps (best {stage.checkpoint.best_interval_steps})" for stage in stages],
    )


def _si(value: float | None) -> str:
    """Three digits and a decimal prefix: 7.62e9 -> "7.62 G"."""
    if value is None:
        return "unknown"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "
