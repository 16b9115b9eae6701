"""Public IP addresses: datatrove's rule, less what is a version or the number of a section, plus IPv6.

datatrove takes any four numbers up to 255 that are joined by dots. Here they must stand alone (no letter, digit or
further number attached). What is left is still ambiguous, and judged by its surroundings:

- in an address with a scheme or a name, with a port or a mask behind it: an address;
- inside a path, or attached to a name by a hyphen: none;
- right behind a word of networks: an address; of versions or sections: none;
- the last three numbers below 32: none. Versions and sections look like that; of all addresses 1 in 512 does.

Of IPv6 only global unicast addresses (2000::/3, RFC 4291) are taken, which do not look like C++ names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pipelines.privacy.page import Page, Span

_LIKE_V4 = re.compile(rb"0\.0{1,3}\.0{1,3}\.0")
_V4 = re.compile(rb"(?<![0aA_.])0{1,3}\.0{1,3}\.0{1,3}\.0{1,3}(?![0aA_]|\.0)")
_LIKE_V6 = re.compile(rb"0[0aA]{3}:[0aA:]{2,34}")
_NETWORK = (
    r"ip|ips|ipv4|addr(?:ess|esse|esses)?|adresse|direcci[oó]n|indirizzo|endereço|адрес|hosts?|dns|servers?|nameservers?|proxy|"
    r"ping|gateway|router|subnet|netmask|traceroute|firewall|client|whois|https?|ssh|ftp"
)
_VERSION = (
    r"v|ver|vers|versions?|versión|versione|versão|versie|версия|версии|rel|releases?|rev|revisions?|builds?|firmware|drivers?|"
    r"kernel|updates?|upgrade|patch|§|sec|sections?|chapters?|clauses?|appendix|articles?|fig|figures?|tab|tables?|"
    r"abschnitt|kapitel|sección|capítulo|sezione|sectie|chapitre|раздел|глава"
)
_CONTEXT = re.compile(rf"(?<!\w)(?:(?P<network>{_NETWORK})|(?:{_VERSION}))(?!\w)", re.IGNORECASE)
_REACH = 32  # characters before an address that are looked at
_BETWEEN = re.compile(r"(?:[\W\d]|and|or|to|is|at|of|no|nr|number|und|bis|et|à|y|e|и)*")
"""What may stand between such a word and the address it is said of."""
_PORT_OR_MASK = re.compile(r":\d{2,5}(?!\d)|/\d{1,2}(?![\d./])")
_SMALL = 32
_COLONS = 7  # an address of version 6 has, unless it is shortened by "::"


def ips(page: Page) -> Iterator[Span]:
    """All public addresses: those of version 4 in order, then those of version 6."""
    if _LIKE_V4.search(page.shape):
        for found in _V4.finditer(page.shape):
            if _is_public(page.text[slice(*found.span())]) and _is_address(page.text, *found.span()):
                yield found.span()
    if b"::" not in page.shape and page.shape.count(b":") < _COLONS:
        return
    for found in _LIKE_V6.finditer(page.shape):
        start = found.start()
        address = page.text[slice(*found.span())].rstrip(":")
        alone = page.shape[start - 1 : start] not in (b"0", b"a", b"A", b":", b".") if start else True
        if alone and address[0] in "23" and _is_public(address):
            yield start, start + len(address)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_address(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - _REACH) : start].rpartition("\n")[2]
    if before.endswith(("://", "@")) or _PORT_OR_MASK.match(text, end):
        return True
    if re.search(r"\w/$|[^\W\d]-$", before) or re.match(r"-(?!\d+\.)\w", text[end : end + 5]):
        return False
    words = list(_CONTEXT.finditer(before))
    if words and _BETWEEN.fullmatch(before, words[-1].end()):
        return words[-1]["network"] is not None
    return max(map(int, text[start:end].split(".")[1:])) >= _SMALL
