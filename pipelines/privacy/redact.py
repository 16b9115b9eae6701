"""All finders over one text: what was found, and the text with something else in its place."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pipelines.privacy.addresses import ips
from pipelines.privacy.emails import emails
from pipelines.privacy.numbers import accounts, phones
from pipelines.privacy.page import Page, Span
from pipelines.privacy.secrets import secrets

FINDERS: Mapping[str, Callable[[Page], Iterator[Span]]] = {
    "secrets": secrets,
    "emails": emails,
    "accounts": accounts,
    "ips": ips,
    "phones": phones,
}
"""By kind. Of two finds that overlap, the one of the kind listed first counts."""

REPLACEMENTS: Mapping[str, Sequence[str]] = {
    "secrets": ("<SECRET>",),
    "emails": ("email@example.com", "firstname.lastname@example.org"),
    "accounts": ("<ACCOUNT>",),
    "ips": (
        "22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11", "18.104.22.168",
    ),
    "phones": ("<PHONE>",),
}  # fmt: skip
"""What stands for a find, in turn; the turns start anew with each text. E-mail and IP addresses are datatrove's."""


Found = Mapping[str, Mapping[str, int]]
"""{kind: {"documents", "occurrences"}}."""


def redact(text: str, kinds: Iterable[str]) -> tuple[str, Counter[str]]:
    """`text` with all finds of `kinds` replaced, and how many of each there were."""
    page = Page.of(text)
    wanted = set(kinds)
    finds: list[tuple[int, int, str]] = []
    taken = bytearray()
    for kind, finder in FINDERS.items():
        if kind not in wanted:
            continue
        for start, end in finder(page):
            taken = taken or bytearray(len(text))
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                finds.append((start, end, kind))
    if not finds:
        return text, Counter()
    turns = {kind: itertools.cycle(values) for kind, values in REPLACEMENTS.items()}
    parts, last = [], 0
    for start, end, kind in sorted(finds):
        parts += [text[last:start], next(turns[kind])]
        last = end
    return "".join([*parts, text[last:]]), Counter(kind for _, _, kind in finds)


def add_found(parts: Iterable[Found]) -> dict[str, dict[str, int]]:
    """The sum of several counts."""
    total: dict[str, dict[str, int]] = {}
    for part in parts:
        for kind, counts in part.items():
            row = total.setdefault(kind, dict.fromkeys(counts, 0))
            for name, count in counts.items():
                row[name] += count
    return total
