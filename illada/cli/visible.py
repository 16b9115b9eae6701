"""Other people's text on a terminal: what would move the cursor, ring a bell or reorder a line is shown, not sent."""

from __future__ import annotations

import re

from illada.report.plain import CONTROL


def visible(text: str) -> str:
    """`text` with control characters (but tab and line feed) and marks of direction as \\xNN or \\uNNNN."""
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    """The same with white space as single spaces."""
    return visible(" ".join(text.split()))


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
