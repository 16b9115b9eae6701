"""From the HTML of a page to its main text and title, by either method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TITLE_CHARACTERS = 300

Extractor = Callable[[str], tuple[str, str]]
"""From HTML to (main text, title), either of which may be empty."""


def exact() -> Extractor:
    """The main text as trafilatura gives it to datatrove; loads the library and changes none of it for others."""
    from resiliparse.parse.html import HTMLTree

    from pipelines.exact.instance import instance

    main_text = instance()
    return lambda html: (main_text(html), _title(HTMLTree.parse(html)))


def fast() -> Extractor:
    """The main text as resiliparse finds it, without the blocks that look like boilerplate; loads and compiles now."""
    from resiliparse.parse.html import HTMLTree

    from pipelines.fast.blocks import main_blocks, network
    from pipelines.startup import numba_alone

    numba_alone()
    keep = network().keep

    def main_text(html: str) -> tuple[str, str]:
        tree = HTMLTree.parse(html)
        title = _title(tree)
        blocks = main_blocks(tree)
        return blocks.joined(keep(blocks)), title

    main_text("<p>A page, to compile for.</p>")
    return main_text


def _title(tree: Any) -> str:
    return " ".join((tree.title or "").split())[:TITLE_CHARACTERS]
