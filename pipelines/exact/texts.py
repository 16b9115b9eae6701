"""Faster functions on strings, each equal to the function of trafilatura with its name."""

from __future__ import annotations

import re
from collections import OrderedDict
from html import unescape
from typing import Any

_CHARACTERS = re.compile(r"&(?:#13|#10|nbsp);")
_NAMED = {"&#13;": "\r", "&#10;": "\n", "&nbsp;": "\u00a0"}
_LINE_BREAK = re.compile(r"(?<![p{P}>])\n")  # the class is as trafilatura has it
_IN_LINES = frozenset(["code", "graphic", "head", "lb", "list", "p", "quote", "row", "table"])
_BARE = frozenset(["del", "head", "hi", "ref"])


def trim(string: Any) -> str | None:
    """The words of `string` with single blanks between them; None for what is no string."""
    return " ".join(string.split()) if isinstance(string, str) else None


def sanitize_lines(text: str) -> str:
    """`sanitize` with its defaults: lines trimmed, empty ones and characters that are not printable left out."""
    lines = []
    for line in text.splitlines():
        if "&" in line:
            line = _CHARACTERS.sub(lambda match: _NAMED[match[0]], line)
        if not line.isprintable():
            line = "".join([c for c in line if c.isprintable() or c.isspace()])
            line = _LINE_BREAK.sub(" ", line)
        line = " ".join(line.split())
        if line:
            lines.append(line)
    return "\n".join(lines).replace("\u2424", "")


def plain_text(body: Any) -> str:
    """`xmltotxt` without formatting."""
    pieces: list[str] = []
    _serialise(body, pieces, any(parent.tag == "cell" for parent in body.iterancestors()))
    return unescape(sanitize_lines("".join(pieces)))


def _serialise(element: Any, pieces: list[str], in_cell: bool) -> None:
    tag, text, tail = element.tag, element.text, element.tail
    children = len(element)
    if text is not None:
        if tag == "ref":
            target = element.get("target")
            if text:
                text = f"[{text}]({target})" if target else f"[{text}]"
        elif text and tag == "cell":
            if children and element[0].tag == "p":
                text += " "
        elif text and tag == "item":
            text = f"- {text}\n"
        pieces.append(text)
    if children:
        inside = in_cell or tag == "cell"
        for child in element:
            _serialise(child, pieces, inside)
    if text is None and tail is None:
        if tag == "graphic":
            label = f"{element.get('title', '')} {element.get('alt', '')}".strip()
            pieces.append(f"![{label}]({element.get('src', '')})")
        elif tag == "row":
            span = int(element.get("span", 1))
            cells = sum(1 for _ in element.iterdescendants("cell"))
            pieces.append("|" * (span - cells) + "\n")
            if any(child.get("role") == "head" for child in element.iterchildren("cell")):
                pieces.append("\n" + "---|" * span + "\n")
        elif tag in _IN_LINES:
            pieces.append("\n")
        elif tag != "cell":
            return
    if tag in _IN_LINES and not in_cell:
        pieces.append("\n\n")
    elif tag == "cell":
        pieces.append(" | ")
    elif tag == "comments":
        pieces.append("\n\n")
    elif tag not in _BARE:
        pieces.append(" ")
    if tail is not None:
        pieces.append(tail)


class Repetitions:
    """`duplicate_test`, whose memory of `size` texts can be emptied at no cost."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: OrderedDict[str, int] = OrderedDict()

    def clear(self) -> None:
        """Forget all texts."""
        self._seen.clear()

    def __call__(self, element: Any, options: Any) -> bool:
        """Whether the text of `element`, if it is long enough, was seen more than `max_repetitions` times before."""
        text = " ".join(" ".join(element.itertext()).split())
        seen = self._seen
        count = seen.get(text, 0)
        if count:
            seen.move_to_end(text)
        elif len(seen) >= self._size:
            seen.popitem(last=False)
        seen[text] = count + 1
        return count > options.max_repetitions and len(text) > options.min_duplcheck_size
