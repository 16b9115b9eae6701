"""Bytes to text: encodings."""

from __future__ import annotations

import pytest

from pipelines.extraction import decode

FRENCH = "Où est passé l’été ? Garçons et élèves déçus."
RUSSIAN = "Русский текст, написанный для проверки кодировок страниц."


@pytest.mark.parametrize(
    ("payload", "charset", "text"),
    [
        (FRENCH.encode(), "", FRENCH),
        (b"\xef\xbb\xbf" + FRENCH.encode(), "", FRENCH),
        (FRENCH.encode(), "latin-1", FRENCH),  # servers often lie about UTF-8
        (FRENCH.replace("’", "'").encode("latin-1"), "ISO-8859-1", FRENCH.replace("’", "'")),
        (RUSSIAN.encode("koi8-r"), "koi8-r", RUSSIAN),
        (b"<meta charset=windows-1251><p>" + RUSSIAN.encode("cp1251"), "", "<meta charset=windows-1251><p>" + RUSSIAN),
        (b"<meta charset=koi8-r><p>" + RUSSIAN.encode("koi8-r"), "nonsense", "<meta charset=koi8-r><p>" + RUSSIAN),
        (b"", "", ""),
    ],
)
def test_encodings(payload: bytes, charset: str, text: str) -> None:
    assert decode(payload, charset) == text


def test_any_bytes_give_text_that_can_be_stored() -> None:
    for charset in ("", "utf-16", "utf-7", "shift_jis", "undefined", "rot13", "zlib"):
        for payload in (bytes(range(256)), b"\xff\xfe\x00\xd8\x00", b"+2AA-", b"\x80" * 50):
            decode(payload, charset).encode()
