"""`illada data`: documents and tokens looked into; the snapshots of a corpus listed, compared, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from illada.cli import data_inspect, data_search, data_stats
from illada.cli.live import amount, byte_size
from illada.cli.options import Json
from illada.config import Placement

if TYPE_CHECKING:
    from illada.data.snapshots import Snapshot

_MOST_FILES = 10
_STORE = Placement().store
Location = Annotated[str, typer.Option("--store", help="The artifact store.")]
Name = Annotated[str, typer.Argument(help="corpus@number, a corpus (its newest), or a fingerprint.", metavar="SNAP")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    data = typer.Typer(
        help="Documents, tokens, and snapshots of a corpus.", no_args_is_help=True, rich_markup_mode="markdown"
    )
    app.add_typer(data, name="data")
    data_inspect.register(data)
    data_stats.register(data)
    data_search.register(data)

    @data.command(epilog="Example: illada data snapshots web")
    def snapshots(
        corpus: Annotated[str, typer.Argument(help="Name of the corpus.", metavar="CORPUS")],
        store: Location = _STORE,
        as_json: Json = False,
    ) -> None:
        """Snapshots of CORPUS with what each of them added."""
        from illada.data.corpora import numbers, open_snapshot

        opened = _store(store)
        found = [open_snapshot(opened, corpus, number) for number in numbers(opened, corpus)]
        if not found:
            open_snapshot(opened, corpus, 1)  # says that there is none
        if as_json:
            print(json.dumps([_summary(snapshot) for snapshot in found], indent=1))
            return
        table = _table("snapshot", "fingerprint", "documents", "tokens", "shards", "new tokens")
        for snapshot in found:
            train, added = snapshot.totals["train"], snapshot.artifact.statistics["added"]["train"]
            table.add_row(
                snapshot.label, snapshot.fingerprint[:12], f"{train['documents']:,}", amount(train["tokens"]),
                f"{train['shards']:,}", f"+{amount(added['tokens'])}",
            )  # fmt: skip
        Console(highlight=False).print(table)

    @data.command(epilog="Example: illada data diff web@3 web@4")
    def diff(old: Name, new: Name, store: Location = _STORE, as_json: Json = False) -> None:
        """What the second snapshot has that the first has not: shards, tokens by source and language, source files."""
        from illada.data.compare import diff as compare
        from illada.data.corpora import resolve

        opened = _store(store)
        found = compare(resolve(opened, old), resolve(opened, new))
        if as_json:
            print(json.dumps(found, indent=1, ensure_ascii=False))
        else:
            _print(found)

    @data.command(epilog="Example: illada data verify web@4")
    def verify(snapshot: Name, store: Location = _STORE, as_json: Json = False) -> None:
        """Check that every shard of a snapshot is there as recorded, without reading any."""
        from illada.data.compare import check
        from illada.data.corpora import resolve

        opened = resolve(_store(store), snapshot)
        counts = check(opened)
        if as_json:
            print(json.dumps({"snapshot": opened.label, **counts}))
            return
        print(
            f"{opened.label}: {counts['shards']:,} shards of {counts['artifacts']:,} refreshes, "
            f"{amount(counts['tokens'])} tokens, {byte_size(counts['bytes'])}: all as recorded"
        )


def _store(location: str) -> Any:
    from illada.artifacts import Store

    return Store(location)


def _summary(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "corpus": snapshot.corpus,
        "number": snapshot.number,
        "fingerprint": snapshot.fingerprint,
        "previous": snapshot.value["previous"],
        "totals": snapshot.totals,
        "added": snapshot.artifact.statistics["added"],
    }


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=True)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _print(found: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    shards, files = found["shards"], found["source_files"]
    console.print(
        f"{found['from']} -> {found['to']}: {shards['added']:,} shards added, {shards['removed']:,} removed, "
        f"{shards['same']:,} in both; the tokenizer is {'the same' if found['tokenizer_equal'] else 'ANOTHER ONE'}"
    )
    table = _table("", "documents", "tokens", "text")
    groups = [(split.replace("_", " "), found[split]) for split in ("train", "held_out")]
    groups += [(f"{kind[:-1]} {name}", row) for kind in ("sources", "languages") for name, row in found[kind].items()]
    for label, row in groups:
        text = f"{'-' if row['bytes'] < 0 else '+'}{byte_size(abs(row['bytes']))}"
        table.add_row(label, f"{row['documents']:+,}", f"{row['tokens']:+,}", text)
    console.print(table)
    for word in ("added", "removed"):
        rows = files[word]
        for row in rows[:_MOST_FILES]:
            console.print(f"{word}: {row['source']}: {row['name']} ({byte_size(row['bytes'])})", markup=False)
        if len(rows) > _MOST_FILES:
            console.print(f"{word}: {len(rows) - _MOST_FILES:,} more source files (--json has them)")
