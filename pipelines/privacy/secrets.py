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

_END = r"(?![A-Za-z0-9_-])"
_TOKEN = re.compile(
    "(?:"
    r"A(?:KIA|SIA)[A-Z0-9]{16}|"  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{82}|"  # GitHub
    r"glpat-[A-Za-z0-9_-]{20,64}|"  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{20,250}|"  # Slack
    r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|"  # Google
    r"[rs]k_live_[A-Za-z0-9]{20,247}|"  # Stripe
    r"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,200}|ant-[A-Za-z0-9_-]{80,120}|[A-Za-z0-9]{48})|"  # OpenAI
    r"hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,512}|"
    r"dop_v1_[0-9a-f]{64}|"  # DigitalOcean
    r"eyJ[A-Za-z0-9_-]{17,4096}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{10,1024}"  # JSON web token
    ")" + _END
)
"""Tokens that begin with a run of at least `_RUN` letters, digits, _ and -."""
_BROKEN_TOKENS = {
    sign: re.compile(r"(?<![A-Za-z0-9_-])" + pattern + _END)
    for sign, pattern in {
        "hooks.slack.com/services/": r"hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,32}",
        "ya29.": r"ya29\.[A-Za-z0-9_-]{30,512}",  # Google
        "SG.": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
        ":AA": r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
    }.items()
}
"""Those that have such a run further on, by what is sure to be in them."""
_RUN = b"a" * 20  # every token and value has that many characters in a row
_LETTERS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-")
_WORDS, _VALUES = (
    bytes(ord("a") if byte in letters else ord(" ") for byte in range(256))
    for letters in (_LETTERS, _LETTERS | set(b"+/"))
)

_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_FINISH = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{30}")
_BLOCK = 20_000  # characters: longer than a key of 16,384 bits

_PASSWORD = re.compile(r"://[^\s:/@?#\"'<>]{0,64}:([^\s/@?#\"'<>]{3,128})@(?=[\w\[])")
_VALUE = re.compile(r"[A-Za-z0-9_+/=-]{20,128}(?![A-Za-z0-9_+/=-])")
_NAME = re.compile(
    r"(?:api|secret|access|auth|private|client|account)[_-]?(?:secret[_-]?|access[_-]?|auth[_-]?)?(?:key|token|secret)"
    r"[\"']?\]?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"']?$",
    re.IGNORECASE,
)
_NAMED = 48  # characters before a value in which its name is
_BITS = 3.4  # of entropy a character, that an assigned value has at least: words have less
_STAND_IN = re.compile(
    r"[^\w]*(?:(?:my|your|the|some|db|user|a)?[-_ ]?(?:pass(?:word|wd|phrase)?|pwd|pw|secret|token|key|hidden|redacted|"
    r"mot-de-passe|contraseña|passwort|kennwort|senha|wachtwoord|пароль|changeme|example|test|foo|bar|foobar|"
    r"guest|root|admin|postgres|mysql|user(?:name)?)\d{0,4})[^\w]*|(.)\1*|[.*…]+|"
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
    words = page.shape.translate(_WORDS)
    if _RUN in words:
        for start in _runs(words):
            token = _TOKEN.match(text, start)
            if token and not token[0].endswith("EXAMPLE"):  # as AWS writes those of its manuals
                yield token.span()
        for sign, pattern in _BROKEN_TOKENS.items():
            if sign in text:
                yield from (found.span() for found in pattern.finditer(text))
    for start in _runs(page.shape.translate(_VALUES)):
        yield from _assigned(text, start)


def _runs(mask: bytes) -> Iterator[int]:
    """Where the runs of at least `_RUN` begin."""
    place = mask.find(_RUN)
    while place >= 0:
        yield place
        gap = mask.find(b" ", place)
        place = mask.find(_RUN, gap) if gap >= 0 else -1


def _private_keys(text: str) -> Iterator[Span]:
    place = 0
    while begin := _BEGIN.search(text, place):
        finish = _FINISH.search(text, begin.end(), begin.end() + _BLOCK)
        place = begin.end()
        if finish and _BASE64.search(text, begin.end(), finish.start()):
            place = finish.end()
            yield begin.start(), place


def _assigned(text: str, start: int) -> Iterator[Span]:
    """The value that begins at `start`, if a name stands before it and it looks random."""
    if start and text[start - 1] in "=:>\"' \t\n" and _NAME.search(text, max(0, start - _NAMED), start):
        value = _VALUE.match(text, start)
        if value and _looks_random(value[0]):
            yield value.span()


def _looks_random(value: str) -> bool:
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and bits >= _BITS and not _STAND_IN.fullmatch(value)
