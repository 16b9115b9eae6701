"""The normal form of an address: what two spellings of one page have in common (RFC 3986, sections 6.2.2 and 6.2.3).

Scheme and host in lower case; no default port, no fragment, no slash at the end of the path, no empty query. Nothing
else is touched: percent-encoding, the order of a query and `www.` may matter to a server.
"""

from __future__ import annotations

from urllib.parse import urlsplit

_PORTS = {"http": "80", "https": "443", "ftp": "21"}


def normal_url(url: str) -> str:
    """The normal form of `url`; what is no address with a host is its own."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if not parts.netloc:
        return url
    user, at, host = parts.netloc.rpartition("@")
    host = host.lower()
    name, colon, port = host.rpartition(":")
    if colon and port in ("", _PORTS.get(parts.scheme)):
        host = name
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{user}{at}{host}{parts.path.rstrip('/')}{query}"
