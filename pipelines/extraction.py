"""From the bytes of a page to its main text and title."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Literal

TITLE_CHARACTERS = 300


def decode(payload: bytes, charset: str = "") -> str:
    """The text of a page: as UTF-8 if it is that, else as the server says, else as the page says or looks like.

    Bytes that fit no encoding become U+FFFD. The text has no lone surrogates.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        encoding = codecs.lookup(charset).name
        text = payload.decode(encoding)
    except (LookupError, UnicodeError):
        encoding = detect_encoding(payload, html5_compatible=True, from_html_meta=True) or "utf-8"
        text = bytes_to_str(payload, encoding, errors="replace")
    return text.encode(errors="replace").decode()


def extractor(method: Literal["exact", "fast"]) -> Callable[[str], tuple[str, str]]:
    """A function from HTML to (main text, title), either of which may be empty. Loads its library now."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    def title_of(tree: HTMLTree) -> str:
        return " ".join((tree.title or "").split())[:TITLE_CHARACTERS]

    def with_resiliparse(html: str) -> tuple[str, str]:
        tree = HTMLTree.parse(html)
        title = title_of(tree)
        return extract_plain_text(tree, main_content=True, list_bullets=False, alt_texts=False), title

    if method == "fast":
        return with_resiliparse

    from trafilatura import extract

    def with_trafilatura(html: str) -> tuple[str, str]:
        # deduplicate=True would remember the pages before: output must not depend on which worker saw which
        text = extract(html, favor_precision=True, include_comments=False, deduplicate=False)
        return text or "", title_of(HTMLTree.parse(html))

    return with_trafilatura
