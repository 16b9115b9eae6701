"""Bytes to text: encodings, main text, titles."""

from __future__ import annotations

import pytest
from text_bench import page, prose

from pipelines.extraction import decode, extractor

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


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_main_text_and_title(method: str) -> None:
    extract = extractor(method)  # type: ignore[arg-type]
    paragraphs = prose("en", 3)
    text, title = extract(page(paragraphs, "Old &amp; new\n  tales").decode())
    assert title == "Old & new tales"
    for paragraph in paragraphs:
        assert paragraph in text
    assert "About" not in text


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_text_does_not_depend_on_the_pages_before(method: str) -> None:
    extract = extractor(method)  # type: ignore[arg-type]
    html = page(prose("en", 4), "Title").decode()
    assert {extract(html) for _ in range(5)} == {extract(html)}


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_pages_without_text(method: str) -> None:
    extract = extractor(method)  # type: ignore[arg-type]
    for html in ("", "<html></html>", "<!-- -->", "<html><body><script>x()</script></body></html>", "\0"):
        assert not extract(html)[0].strip()
