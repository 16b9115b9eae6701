"""`illada data stats`: how many documents and tokens there are, of what, and how long they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from illada.cli.collection import STORE, Location, Stage, Target, locate
from illada.cli.live import amount, byte_size
from illada.cli.options import Database, Json
from illada.cli.visible import one_line

_BAR = 32  # characters of the longest bar


@contextmanager
def file_progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on the terminal, on standard error; the function it gives moves it by one file."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)


def register(data: typer.Typer) -> None:
    """Add the command to the group."""

    @data.command(
        epilog="Examples: illada data stats demo  |  illada data stats demo --stage curate  |  ... web@3 --json"
    )
    def stats(
        target: Target,
        stage: Stage = None,
        top: Annotated[int, typer.Option("--top", min=1, help="Show so many rows of each table.")] = 15,
        store: Location = STORE,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Documents, tokens and bytes by source, language and domain, and the distribution of lengths."""
        from illada.data.look import summarise_shards
        from pipelines.browse import Selection, summarise

        found = locate(target, stage, database, store)
        parts: dict[str, Mapping[str, Any]] = {}
        if found.documents:
            with file_progress("documents", len(found.documents)) as one_more:
                parts["documents"] = summarise(found.documents, Selection(), one_more)
        if found.shards:
            with file_progress("shards", sum(map(len, found.shards.values()))) as one_more:
                parts["tokens"] = summarise_shards(found.shards, one_more)
        if not parts:
            found.require("documents")
        if as_json:
            print(json.dumps({"of": found.label, **parts}, indent=1, ensure_ascii=False))
            return
        for name, figures in parts.items():
            _print(Console(highlight=False, soft_wrap=True), f"{name} of {one_line(found.label)}", figures, top)


def _print(console: Console, title: str, figures: Mapping[str, Any], top: int) -> None:
    console.rule(title, align="left")
    console.print(_total(figures))
    for kind in ("splits", "sources", "languages", "domains"):
        if figures.get(kind):
            console.print(_table(kind, figures[kind], figures["bytes"], top))
    unit = "tokens" if "tokens" in figures else "bytes"
    most = max(figures["lengths"].values(), default=0)
    table = Table(box=None, pad_edge=False, title=f"length in {unit}", title_justify="left", title_style="bold")
    for heading, justify in (("below", "right"), ("documents", "right"), ("", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for limit, count in figures["lengths"].items():
        table.add_row(f"{int(limit):,}", f"{count:,}", "█" * max(1, round(_BAR * count / most)))
    console.print(table)


def _total(figures: Mapping[str, Any]) -> str:
    parts = [f"{figures['documents']:,} documents"]
    if "tokens" in figures:
        parts.append(f"{amount(figures['tokens'])} tokens")
    parts.append(byte_size(figures["bytes"]))
    if figures.get("bytes_per_token"):
        parts.append(f"{figures['bytes_per_token']:.3f} bytes a token")
    if figures["documents"]:
        parts.append(f"{figures['bytes'] / figures['documents']:,.0f} bytes a document")
    return ", ".join(parts)


def _table(kind: str, rows: Mapping[str, Mapping[str, Any]], whole: int, top: int) -> Table:
    has_tokens = any("tokens" in row for row in rows.values())
    table = Table(box=None, pad_edge=False)
    for heading in (kind[:-1], "documents", *(["tokens", "bytes/token"] if has_tokens else []), "text", "share"):
        table.add_column(heading, justify="left" if heading == kind[:-1] else "right")
    ordered = sorted(rows.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    for name, row in ordered[:top]:
        tokens = [amount(row["tokens"]), f"{row['bytes_per_token'] or 0:.3f}"] if has_tokens else []
        share = f"{100 * row['bytes'] / whole:.1f}%" if whole else ""
        table.add_row(one_line(name) or "(none)", f"{row['documents']:,}", *tokens, byte_size(row["bytes"]), share)
    if len(ordered) > top:
        rest = sum(row["documents"] for _, row in ordered[top:])
        table.add_row(f"and {len(ordered) - top:,} more", f"{rest:,}")
    return table
