"""`illada data search`: documents that say something, with the words around it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from illada.cli.collection import STORE, Location, Stage, Target, locate
from illada.cli.data_inspect import Domain, Id, Language, Source, Url
from illada.cli.data_stats import file_progress
from illada.cli.options import Database, Json
from illada.cli.visible import one_line


def register(data: typer.Typer) -> None:
    """Add the command to the group."""

    @data.command(
        epilog="Examples: illada data search demo 'apt install'  |  illada data search demo 'kernel [0-9.]+' --regex"
        "  |  illada data search demo --domain debian.org"
    )
    def search(
        target: Target,
        query: Annotated[str, typer.Argument(help="Part of a text.", metavar="[QUERY]")] = "",
        regex: Annotated[bool, typer.Option("--regex", help="QUERY is a regular expression.")] = False,
        ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="Upper and lower case alike.")] = False,
        rejected: Annotated[bool, typer.Option("--rejected", help="Search the sample of dropped documents.")] = False,
        identity: Id = None,
        source: Source = None,
        language: Language = None,
        domain: Domain = None,
        url: Url = None,
        context: Annotated[int, typer.Option("--context", min=0, help="Characters shown on both sides.")] = 80,
        limit: Annotated[int, typer.Option("--limit", min=1, help="Stop after so many documents.")] = 20,
        stage: Stage = None,
        store: Location = STORE,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Documents whose text has QUERY, or of a URL or domain; all files are looked through in parallel."""
        from pipelines.browse import Selection
        from pipelines.browse import search as search_files

        wanted = Selection(id=identity, source=source, language=language, domain=domain, url=url)
        if not query and wanted == Selection():
            raise ValueError("say what to look for: a QUERY, --url, --domain, --id, --source or --language")
        found = locate(target, stage, database, store)
        files = found.require("rejected" if rejected else "documents")
        with file_progress("files", len(files)) as one_more:
            hits = list(
                search_files(
                    files, query, wanted, regex=regex, ignore_case=ignore_case, context=context, most=limit,
                    on_file=one_more,
                )
            )  # fmt: skip
        if as_json:
            for hit in hits:
                around = {"before": hit.before, "match": hit.match, "after": hit.after}
                print(json.dumps({**hit.row, **around}, ensure_ascii=False))
            return
        console = Console(highlight=False, soft_wrap=True)
        for hit in hits:
            where = one_line(str(hit.row.get("url") or hit.row.get("source", "")))
            console.print(Text.assemble((hit.row["id"], "bold"), "  ", (where, "dim")))
            before, match, after = (one_line(f"|{part}|")[1:-1] for part in (hit.before, hit.match, hit.after))
            console.print(Text.assemble("  ", before, (match, "bold red"), after))
        more = " (the first: --limit)" if len(hits) == limit else ""
        console.print(Text(f"{len(hits)} document{'' if len(hits) == 1 else 's'}{more}", "dim"))
