"""Personal data: e-mail addresses and public IP addresses are replaced as datatrove's PIIFormatter replaces them.

Its replacements rotate; here they start anew with each document, so that a document's text does not depend on the ones
before. Its e-mail pattern takes quadratic time on long runs of letters; it is applied only around "@".
"""

from __future__ import annotations

import re

from datatrove.pipeline.formatters import PIIFormatter

_AROUND_AT = re.compile(r"\S*@\S*")
_LIKE_IP = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")


def format_pii(text: str) -> str:
    """`text` with addresses replaced: what a new PIIFormatter makes of it."""
    stock = PIIFormatter()
    if "@" in text:
        text = _AROUND_AT.sub(lambda match: stock.emails_replacer.replace(match[0]), text)
    if _LIKE_IP.search(text):
        text = stock.ip_replacer.replace(text)
    return text
