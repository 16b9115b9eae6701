"""Credentials: what the issuers made recognisable, and little else, since text is full of random-looking words.

Tokens have a prefix, an alphabet and a length that their issuer documents. Besides: private key blocks (RFC 7468, PGP),
JSON web tokens (RFC 7519), the password in an address (RFC 3986, section 3.2.1) unless it is a stand-in such as
"password" or "$PASS", and values assigned to names such as `api_key` that look random.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from pipelines.privacy.page import Page, Span

_ALONE, _END = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])"
_TOKENS: dict[str, re.Pattern[str]] = {
    sign: re.compile(_ALONE + pattern + _END)
    for sign, pattern in {
        "AKIA": r"AKIA[A-Z0-9]{16}",  # AWS
        "ASIA": r"ASIA[A-Z0-9]{16}",
        "ghp_": r"ghp_[A-Za-z0-9]{36,251}",  # GitHub
        "gho_": r"gho_[A-Za-z0-9]{36,251}",
        "ghu_": r"ghu_[A-Za-z0-9]{36,251}",
        "ghs_": r"ghs_[A-Za-z0-9]{36,251}",
        "ghr_": r"ghr_[A-Za-z0-9]{36,251}",
        "github_pat_": r"github_pat_[A-Za-z0-9_]{82}",
        "glpat-": r"glpat-[A-Za-z0-9_-]{20,64}",  # GitLab
        "xox": r"xox[abeoprs]-[A-Za-z0-9-]{20,250}",  # Slack
        "hooks.slack.com/services/": r"hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,32}",
        "AIza": r"AIza[A-Za-z0-9_-]{35}",  # Google
        "ya29.": r"ya29\.[A-Za-z0-9_-]{30,512}",
        "GOCSPX-": r"GOCSPX-[A-Za-z0-9_-]{28}",
        "k_live_": r"[rs]k_live_[A-Za-z0-9]{20,247}",  # Stripe
        "sk-": r"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,200}|ant-[A-Za-z0-9_-]{80,120}|[A-Za-z0-9]{48})",
        "hf_": r"hf_[A-Za-z]{34}",  # Hugging Face
        "npm_": r"npm_[A-Za-z0-9]{36}",
        "pypi-AgE": r"pypi-AgE[A-Za-z0-9_-]{50,512}",
        "SG.": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
        "dop_v1_": r"dop_v1_[0-9a-f]{64}",  # DigitalOcean
        ":AA": r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
        "eyJ": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",  # JSON web token
    }.items()
}
_RUN = 20  # every token has that many letters, digits, _ and - in a row
_LETTERS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-")
_WORDS = bytes(ord("a") if byte in _LETTERS else ord(" ") for byte in range(256))

_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_FINISH = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{30}")
_BLOCK = 20_000  # characters: longer than a key of 16,384 bits

_PASSWORD = re.compile(r"://[^\s:/@?#\"'<>]{0,64}:([^\s/@?#\"'<>]{3,128})@(?=[\w\[])")
_ASSIGNED = re.compile(
    r"(?:api|secret|access|auth|private|client|account)[_-]?(?:secret[_-]?|access[_-]?|auth[_-]?)?(?:key|token|secret)"
    r"[\"']?\]?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"']?([A-Za-z0-9_+/=-]{20,128})(?![\w+/=-])",
    re.IGNORECASE,
)
_BITS = 3.4  # of entropy a character, that an assigned value has at least: words have less
_STAND_IN = re.compile(
    r"[^\w]*(?:(?:my|your|the|some|db|user|a)?[-_ ]?(?:pass(?:word|wd|phrase)?|pwd|pw|secret|token|key|hidden|redacted|"
    r"changeme|example|test|foo|bar|foobar|guest|root|admin|postgres|mysql|user(?:name)?)\d{0,4})[^\w]*|(.)\1*|[.*…]+|"
    r"[$%{<\[(].*|.*(?:example|your|placeholder|dummy|xxxx|\.\.\.|\*\*\*).*",
    re.IGNORECASE,
)


def secrets(page: Page) -> Iterator[Span]:
    """All credentials found; of tokens, kind by kind. Of an address or assignment the secret alone."""
    text = page.text
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    if "://" in text and "@" in text:
        yield from (found.span(1) for found in _PASSWORD.finditer(text) if not _STAND_IN.fullmatch(found[1]))
    if b"a" * _RUN in page.shape.translate(_WORDS):
        for sign, pattern in _TOKENS.items():
            if sign in text:
                yield from (found.span() for found in pattern.finditer(text) if not found[0].endswith("EXAMPLE"))
        yield from (found.span(1) for found in _ASSIGNED.finditer(text) if _looks_random(found[1]))


def _private_keys(text: str) -> Iterator[Span]:
    place = 0
    while begin := _BEGIN.search(text, place):
        finish = _FINISH.search(text, begin.end(), begin.end() + _BLOCK)
        place = begin.end()
        if finish and _BASE64.search(text, begin.end(), finish.start()):
            place = finish.end()
            yield begin.start(), place


def _looks_random(value: str) -> bool:
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and bits >= _BITS and not _STAND_IN.fullmatch(value)
