"""`illada data inspect`: one document after another, kept, rejected with the reason, or as tokens."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from illada.cli.collection import STORE, Collection, Location, Stage, Target, locate
from illada.cli.live import byte_size
from illada.cli.options import Database, Json
from illada.cli.visible import one_line, visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from illada.data.look import TokenDocument
    from illada.data.tokenizer import TextTokenizer

Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many documents.")]
Id = Annotated[str | None, typer.Option("--id", help="The document with this id.")]
Source = Annotated[str | None, typer.Option("--source", help="Documents of this source.")]
Language = Annotated[str | None, typer.Option("--language", help="Documents in this language.")]
Domain = Annotated[str | None, typer.Option("--domain", help="Documents of this registrable domain (example.co.uk).")]
Windows = Annotated[
    str | None, typer.Option("--windows", help="Training windows of these numbers, with commas between them.")
]
Length = Annotated[
    int | None, typer.Option("--length", min=1, help="Tokens of a training window (`window` of its training).")
]
Url = Annotated[str | None, typer.Option("--url", help="Documents of exactly this URL.")]

_SHADES = ("black on bright_cyan", "black on bright_yellow")
_SPECIAL = "bold white on magenta"
_BOUNDARY = "\u00a6"  # between tokens where there is no colour
_FACTS = ("source", "language", "language_score", "quality", "date", "title", "url", "step", "reason", "bytes")


def register(data: typer.Typer) -> None:
    """Add the command to the group."""

    @data.command(
        epilog="Examples: illada data inspect demo  |  illada data inspect demo --rejected --reason short_document  |  "
        "illada data inspect web@3 --tokens --language de  |  "
        "illada data inspect demo --windows 17,204 --length 256"
    )
    def inspect(
        target: Target,
        stage: Stage = None,
        rejected: Annotated[bool, typer.Option("--rejected", help="The sample of what filters dropped.")] = False,
        step: Annotated[str | None, typer.Option("--step", help="Rejected by this step.")] = None,
        reason: Annotated[str | None, typer.Option("--reason", help="Rejected for this reason.")] = None,
        tokens: Annotated[bool, typer.Option("--tokens", help="As tokens, with their boundaries.")] = False,
        windows: Windows = None,
        length: Length = None,
        identity: Id = None,
        source: Source = None,
        language: Language = None,
        domain: Domain = None,
        url: Url = None,
        limit: Limit = 10,
        characters: Annotated[
            int, typer.Option("--characters", min=0, help="Show so much of each text; 0 for all of it.")
        ] = 2000,
        store: Location = STORE,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Documents: kept, rejected with reasons, or as tokens with their boundaries; training windows by number."""
        from illada.cli.data_windows import parse_numbers, show_windows
        from pipelines.browse import Selection, rows

        wanted = Selection(
            id=identity, source=source, language=language, url=url, step=step, reason=reason, domain=domain
        )
        if (step or reason) and not rejected:
            raise ValueError("--step and --reason are of rejected documents: add --rejected")
        if (windows is None) != (length is None):
            raise ValueError("--windows and --length go together: a window's number depends on the length of windows")
        numbers = parse_numbers(windows) if windows is not None else []
        found = locate(target, stage, database, store)
        if length is not None:
            show_windows(found, numbers, length, characters, as_json=as_json)
            return
        if tokens or (found.shards and not found.documents and not rejected):
            _show_tokens(found, wanted, limit, characters, as_json=as_json)
            return
        chosen = rows(found.require("rejected" if rejected else "documents"), wanted)
        _show(itertools.islice(chosen, limit), characters, as_json=as_json)


def _show(documents: Iterator[dict[str, Any]], characters: int, *, as_json: bool) -> None:
    console, number = Console(highlight=False, soft_wrap=True), 0
    for number, row in enumerate(documents, 1):
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        _head(console, number, row, byte_size(len(row["text"].encode())))
        console.print(Text(visible(_cut(row["text"], characters)) or "(no text)"))
    if not number:
        console.print("no such document")


def _head(console: Console, number: int, row: Mapping[str, Any], size: str) -> None:
    facts = [(name, row[name]) for name in _FACTS if row.get(name) not in (None, "", 0.0)]
    console.rule(Text(f"{number}  {row['id']}  {size}"), align="left")
    for name, value in facts:
        shown = f"{value:.3g}" if isinstance(value, float) else one_line(str(value))
        style = "red" if name in ("step", "reason") else "dim"
        console.print(Text.assemble((f"{name}: ", "dim"), (shown, style)))


def _show_tokens(found: Collection, wanted: Any, limit: int, characters: int, *, as_json: bool) -> None:
    from illada.data.look import token_documents
    from illada.data.tokenizer import TextTokenizer

    if not found.shards:
        raise ValueError(f"{found.label} has no token shards")
    given = {field.name: value for field in fields(wanted) if (value := getattr(wanted, field.name)) is not None}
    if unknown := set(given) - {"id", "source", "language"}:
        raise ValueError(f"token shards know id, source and language of a document, not {', '.join(sorted(unknown))}")
    tokenizer = TextTokenizer.load(found.tokenizer.local()) if found.tokenizer else None
    console, number = Console(highlight=False, soft_wrap=True), 0
    chosen = (
        (split, document) for split, shards in found.shards.items() for document in token_documents(shards, given)
    )
    for number, (split, document) in enumerate(itertools.islice(chosen, limit), 1):
        if as_json:
            print(json.dumps(_as_json(split, document, tokenizer), ensure_ascii=False))
            continue
        row = {"id": document.id, "source": document.source, "language": document.language}
        ratio = f", {document.bytes / len(document.tokens):.2f} bytes a token" if len(document.tokens) else ""
        _head(console, number, row, f"{split}: {len(document.tokens):,} tokens{ratio}")
        console.print(coloured(document.tokens, tokenizer, characters, console.is_terminal))
    if not number:
        console.print("no such document")


def _as_json(split: str, document: TokenDocument, tokenizer: TextTokenizer | None) -> dict[str, Any]:
    row = {name: getattr(document, name) for name in ("id", "source", "language", "bytes")}
    return {**row, "split": split, "tokens": spelt(document.tokens, tokenizer)}


def spelt(tokens: NDArray[Any], tokenizer: TextTokenizer | None) -> list[Any]:
    """Tokens as JSON: [id, text] each, or ids alone where there is no tokenizer."""
    from illada.data.look import pieces

    return tokens.tolist() if tokenizer is None else [list(piece) for piece in pieces(tokens, tokenizer)]


def coloured(tokens: NDArray[Any], tokenizer: TextTokenizer | None, characters: int, colours: bool) -> Text:
    """Tokens in two shades in turn, on a terminal; elsewhere a broken bar stands between them."""
    from illada.data.look import pieces
    from illada.data.tokenizer import SPECIAL_TOKENS

    if tokenizer is None:
        return Text(_cut(" ".join(map(str, tokens.tolist())), characters))
    text, shown = Text(), 0
    for index, (token, piece) in enumerate(pieces(tokens, tokenizer)):
        if characters and shown > characters:
            text.append(f" ... and {len(tokens) - index:,} more tokens")
            break
        shown += len(piece)
        special = token < len(SPECIAL_TOKENS)
        label = visible(piece)
        if not special:
            label = label.replace("\n", "\\n\n").replace("\t", "\\t")
        if colours:
            text.append(label, style=_SPECIAL if special else _SHADES[index % 2])
        else:
            text.append(label if index == 0 else f"{_BOUNDARY}{label}")
    return text


def _cut(text: str, characters: int) -> str:
    if not characters or len(text) <= characters:
        return text
    return f"{text[:characters]} ... ({len(text) - characters:,} more characters: --characters 0)"
