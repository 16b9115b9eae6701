"""From the bytes of a page to its text."""

from __future__ import annotations

import codecs


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
