"""E-mail addresses, as datatrove's PIIFormatter has them, in linear time.

Its pattern tries every letter of a long run as a beginning. Here each "@" is looked at once: its left side is what runs
up to it, its right side is matched. One difference: a domain's last label has a letter in it (RFC 3696, section 2), so
that `package@1.2.3` is no address.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from pipelines.privacy.page import Page, Span

_LOCAL = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
_LOCAL_OR_DOT = _LOCAL + "."
_BEGINNING = re.compile(rf"\b[{re.escape(_LOCAL)}]")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_DOMAIN = re.compile(
    rf"(?:{_LABEL}\.)+(?P<last>{_LABEL})|\[(?:{_OCTET}\.){{3}}(?:{_OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]"
)


def emails(page: Page) -> Iterator[Span]:
    """All addresses, in order."""
    text = page.text
    floor, at = 0, text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        end = at + 1
        if domain and not (domain["last"] or "a").isdigit():
            start = _local_part(text, floor, at)
            if start is not None:
                end = domain.end()
                yield start, end
        floor, at = end, text.find("@", end)


def _local_part(text: str, floor: int, at: int) -> int | None:
    """Where the name before an "@" begins, not before `floor`; None when there is none."""
    stretch = text[floor:at]
    first = floor + len(stretch.rstrip(_LOCAL_OR_DOT))
    if first == at or text[at - 1] == ".":
        return None
    gap = text.rfind("..", first, at)
    found = _BEGINNING.search(text, first if gap < 0 else gap + 2, at)
    return found.start() if found else None
