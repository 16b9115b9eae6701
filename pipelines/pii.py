"""Personal data: e-mail addresses and public IP addresses are replaced as datatrove's PIIFormatter replaces them.

Its replacements rotate; here they start anew with each document, so that a document's text does not depend on the ones
before. Its e-mail pattern takes quadratic time on long runs of letters, so it is applied only to those chunks between
blanks that have an "@" in them: no address spans a blank.
"""

from __future__ import annotations

import re

from datatrove.pipeline.formatters import PIIFormatter

_BLANKS = re.compile(r"(\s+)")
_LIKE_IP = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")


def format_pii(text: str) -> str:
    """`text` with addresses replaced: what a new PIIFormatter makes of it."""
    stock = PIIFormatter()
    if "@" in text:
        chunks = _BLANKS.split(text)
        text = "".join(stock.emails_replacer.replace(chunk) if "@" in chunk else chunk for chunk in chunks)
    if _LIKE_IP.search(text):
        text = stock.ip_replacer.replace(text)
    return text
