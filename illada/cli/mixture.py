"""A mixture as a table for people: what each source and language was to give, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def mixture_table(rows: Sequence[Mapping[str, Any]], *, trained: bool) -> Table:
    """Rows of `illada.data.mixture_loader.MixtureLoader.table`; of a run that has not trained yet only what is planned.

    Epochs are those achieved, or planned.
    """
    total = sum(row["planned"] for row in rows) or 1
    headings = ["mixture", "tokens there are", "planned", "share", *(["achieved"] if trained else []), "epochs"]
    table = Table(box=None, pad_edge=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "mixture" else "right")
    for row in rows:
        epochs = (row["achieved"] if trained else row["planned"]) / (row["tokens"] or 1)
        figures = [f"{row['tokens']:,}", f"{row['planned']:,}", f"{row['planned'] / total:.1%}"]
        achieved = [f"{row['achieved']:,}"] if trained else []
        table.add_row(Text(f"{row['source']} {row['language']}"), *figures, *achieved, f"{epochs:.2f}")
    return table
