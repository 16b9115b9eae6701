"""What the rates of `curation.py` come to for the corpus of the recipe, 12T tokens: arithmetic with stated assumptions.

The chain's cost falls on every page that is read, MinHash's on every document that the filters have left, that of
tokens on what is kept. Network, storage and idle processors are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOKENS = 12e12
TOKENS_PER_PAGE = 52
"""FineWeb (arXiv 2406.17557): 15T tokens of 96 crawls; about three billion pages each."""
TOKENS_BEFORE_DEDUPLICATION = 36 / 15
"""The same: 36T tokens of filtered text, 15T in the end; a third of a crawl's documents are read by MinHash."""
TOKENS_PER_DOCUMENT = 650
DOLLARS_PER_CORE_HOUR = 0.04
"""About what a virtual processor costs on demand; a third of it where interruptions are borne."""


def project(chains: Mapping[str, float], documents: Mapping[str, float], tokens: Mapping[str, float]) -> dict[str, Any]:
    """Core-hours and dollars by chain (`stock`, `exact`, `fast`).

    `chains` has pages, `documents` documents and `tokens` tokens a second and core; the latter two for `stock` and
    `own`.
    """
    pages = TOKENS / TOKENS_PER_PAGE
    signed = TOKENS * TOKENS_BEFORE_DEDUPLICATION / TOKENS_PER_DOCUMENT
    projected = {}
    for chain, rate in chains.items():
        side = "stock" if chain == "stock" else "own"
        hours = {
            "chain": pages / rate / 3600,
            "minhash": signed / documents[side] / 3600,
            "tokens": TOKENS / tokens[side] / 3600,
        }
        total = sum(hours.values())
        projected[chain] = {
            "core_hours": {**{part: round(value) for part, value in hours.items()}, "total": round(total)},
            "dollars": round(total * DOLLARS_PER_CORE_HOUR),
        }
    return projected
