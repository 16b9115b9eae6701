"""`illada data inspect --windows`: training windows by number, such as an error of training names."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from illada.cli.collection import Collection
from illada.cli.data_inspect import coloured, spelt
from illada.cli.visible import one_line

_TRAIN = "train"


def parse_numbers(text: str) -> list[int]:
    """The numbers in "17,204". ValueError for what is none."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--windows takes numbers with commas between them, like 17,204, not {text!r}") from None


def show_windows(found: Collection, numbers: Sequence[int], length: int, characters: int, *, as_json: bool) -> None:
    """Print each window's place, the documents it has tokens of, and its tokens."""
    from illada.data.look import token_windows
    from illada.data.tokenizer import TextTokenizer

    if _TRAIN not in found.shards and len(found.shards) != 1:
        raise ValueError(f"{found.label} has no token shards to train on; name another stage (--stage) or path")
    split = _TRAIN if _TRAIN in found.shards else next(iter(found.shards))
    tokenizer = TextTokenizer.load(found.tokenizer.local()) if found.tokenizer else None
    console = Console(highlight=False, soft_wrap=True)
    for window in token_windows(found.shards[split], length, numbers):
        if as_json:
            place = {"window": window.number, "split": split, "shard": window.shard, "first": window.first}
            tokens = spelt(window.tokens, tokenizer)
            print(json.dumps({**place, "documents": window.documents, "tokens": tokens}, ensure_ascii=False))
            continue
        last = window.first + length - 1
        console.rule(
            Text(f"window {window.number}  {split}: {window.shard}, tokens {window.first} to {last}"), align="left"
        )
        for row in window.documents:
            facts = one_line(f"{row['id']}  {row['source']}  {row['language']}")
            console.print(Text.assemble(("document: ", "dim"), f"{facts}  {row['tokens']:,} tokens"))
        console.print(coloured(window.tokens, tokenizer, characters, console.is_terminal))
