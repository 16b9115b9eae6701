"""Documents by registrable domain (example.co.uk), in bounded memory: which sites a corpus read and kept.

Counts are exact within a unit of input. Of each unit the domains with most documents are handed on, and while units are
added up only so many stay; the rest is counted together as `others`. So sums are exact and a domain's own figures are
lower bounds, for frequent domains close ones. Units are added in their order: the result is the same for any number of
workers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from datatrove.data import Document

PER_UNIT = 256
"""Domains of one unit that are handed on."""
REPORTED = 500
_HELD = 20_000
_FIGURES = ("read", "documents", "bytes")


class DomainTally:
    """Per domain: documents read, documents kept and bytes kept. Documents without a URL count under ""."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._others = [0, 0, 0]

    def reading(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents on, counting each as read."""
        for document in documents:
            self._of(registrable_domain(document.metadata["url"]))[0] += 1
            yield document

    def keep(self, url: str, size: int) -> None:
        """A document of `size` bytes was kept."""
        count = self._of(registrable_domain(url))
        count[1] += 1
        count[2] += size

    def update(self, other: Mapping[str, Any]) -> None:
        """Add the result of another tally's `rows`."""
        for name, row in other["domains"].items():
            self._add(self._of(name), row)
        self._add(self._others, other["others"])
        if len(self._counts) > 2 * _HELD:
            self._prune(_HELD)

    def rows(self, most: int) -> dict[str, Any]:
        """{"domains": {name: {"read", "documents", "bytes"}}, "others": the same figures of the rest}."""
        self._prune(most)
        return {
            "domains": {name: dict(zip(_FIGURES, count, strict=True)) for name, count in sorted(self._counts.items())},
            "others": dict(zip(_FIGURES, self._others, strict=True)),
        }

    def _of(self, name: str) -> list[int]:
        return self._counts.setdefault(name, [0, 0, 0])

    @staticmethod
    def _add(count: list[int], row: Mapping[str, int]) -> None:
        for index, figure in enumerate(_FIGURES):
            count[index] += row[figure]

    def _prune(self, most: int) -> None:
        """Count all but the `most` domains with most documents read under others."""
        order = sorted(self._counts, key=lambda name: (-self._counts[name][0], name))
        for name in order[most:]:
            self._add(self._others, dict(zip(_FIGURES, self._counts.pop(name), strict=True)))


def merge_domains(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the `rows` of units, in their order."""
    total = DomainTally()
    for part in parts:
        total.update(part)
    return total.rows(REPORTED)


def registrable_domain(url: str) -> str:
    """What was registered under a public suffix; the host itself where nothing was; "" without a host."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # such as a bracket that does not close
        return ""
    return _of_host(host)


@functools.lru_cache(maxsize=65_536)
def _of_host(host: str) -> str:
    return _extract()(host).top_domain_under_public_suffix or host


@functools.cache
def _extract() -> Any:
    import tldextract

    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
