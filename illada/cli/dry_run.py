"""What `illada plan --dry-run` prints: memory of every rank as built and as planned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from illada.cli.live import byte_size

if TYPE_CHECKING:
    from illada.train.dry_run import RankReport


def dry_run_table(reports: Sequence[RankReport]) -> Table:
    """One line for each part of each rank."""
    table = Table(box=None, pad_edge=True)
    for heading in ("built without memory", "parameters", "", "built", "planned", "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    table.columns[0].justify = "left"
    for report in reports:
        rank = f"{report.stage}, pipeline stage {report.pipeline_stage}: {report.ranks} ranks"
        count = f"{report.parameters:,}"
        for part in report.parts:
            table.add_row(
                rank, count, part.name, byte_size(part.built), byte_size(part.planned), f"{part.difference:+.2%}"
            )
            rank = count = ""
    return table
