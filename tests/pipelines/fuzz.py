"""Bad input by the hundred, drawn by a seed: pages no browser would thank for, in archives that were damaged."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable

import zstandard
from text_bench import page, prose

SCRIPTS = {
    "latin": 0x41, "greek": 0x391, "cyrillic": 0x410, "armenian": 0x531, "hebrew": 0x5D0, "arabic": 0x627,
    "syriac": 0x710, "thaana": 0x780, "nko": 0x7CA, "devanagari": 0x905, "bengali": 0x985, "gurmukhi": 0xA05,
    "gujarati": 0xA85, "tamil": 0xB85, "telugu": 0xC05, "kannada": 0xC85, "malayalam": 0xD05, "sinhala": 0xD85,
    "thai": 0xE01, "lao": 0xE81, "tibetan": 0xF40, "myanmar": 0x1000, "georgian": 0x10D0, "hangul": 0xAC00,
    "ethiopic": 0x1200, "cherokee": 0x13A0, "ogham": 0x1681, "runic": 0x16A0, "khmer": 0x1780, "mongolian": 0x1820,
    "hiragana": 0x3041, "katakana": 0x30A1, "bopomofo": 0x3105, "han": 0x4E00, "yi": 0xA000, "vai": 0xA500,
    "gothic": 0x10330, "deseret": 0x10400, "cuneiform": 0x12000, "hieroglyphs": 0x13000, "adlam": 0x1E900,
    "mathematical": 0x1D400, "emoji": 0x1F600, "private": 0xE000, "tags": 0xE0020,
}  # fmt: skip
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\u202d\u2066\u2069\u061c\u180e\ufff9\ufffb\u0300\u20dd\ufe0f"
CHARSETS = (
    "utf-8", "utf-16", "utf-16-le", "utf-32", "cp1252", "cp1251", "koi8-r", "cp932", "euc-jp", "gb18030", "big5",
    "euc-kr", "iso-2022-jp", "utf-7", "cp037",
)  # fmt: skip
Draw = random.Random


def script_line(draw: Draw, first: int) -> str:
    """Words of a script's first letters."""
    return " ".join("".join(chr(first + draw.randrange(24)) for _ in range(draw.randint(1, 9))) for _ in range(60))


def _scripts(draw: Draw) -> bytes:
    return page([script_line(draw, draw.choice(list(SCRIPTS.values()))) for _ in range(4)], "Scripts")


def _invisible(draw: Draw) -> bytes:
    return page(["".join(c + draw.choice(INVISIBLE) for c in text) for text in prose("en", draw.randrange(99))], "x")


def _recoded(draw: Draw) -> bytes:
    text = page(prose("de", draw.randrange(99)), draw.choice(list(INVISIBLE))).decode().replace("utf-8", "x-lies")
    return text.encode(draw.choice(CHARSETS), errors="replace")


def _surrogates(draw: Draw) -> bytes:
    halves = "".join(chr(draw.randrange(0xD800, 0xE000)) + " word " for _ in range(50))
    return page(prose("en", 1), "&#xD800;&#x110000;&#0;").replace(b"</main>", halves.encode(errors="surrogatepass"))


def _nested(draw: Draw) -> bytes:
    tag, depth = draw.choice([b"div", b"table", b"b", b"ul", b"svg", b"template", b"select"]), draw.choice([50, 5000])
    return (
        b"<html><body>" + b"<%s>" % tag * depth + page(prose("en", 2), "deep") + b"</%s>" % tag * draw.randrange(depth)
    )


def _unclosed(draw: Draw) -> bytes:
    data = page(prose("en", draw.randrange(99)), "cut")
    opening = draw.choice(
        [b"<!--", b"<script>", b"<textarea>", b"<![CDATA[", b"<?php ", b"<a href='", b"<title>", b"<p <p <"]
    )
    at = draw.randrange(len(data))
    return data[:at] + opening + data[at:]


def _attributes(draw: Draw) -> bytes:
    many = b" ".join(b"a%d='%s'" % (n, b"x" * draw.randrange(9)) for n in range(2000))
    return b"<html " + many + b" b=" + b"y" * 100_000 + b">" + page(prose("en", 3), "attributes")


def _zeros(draw: Draw) -> bytes:
    data = bytearray(page(prose("en", draw.randrange(99)), "zeros"))
    for _ in range(draw.randrange(1, 400)):
        data.insert(draw.randrange(len(data)), draw.choice([0, 0, 1, 8, 0x1B, 0x7F, 0x85, 0xFF]))
    return bytes(data)


def _one_line(draw: Draw) -> bytes:
    unit = draw.choice(["a", "word ", "中", "\u200b", "<br>", "&amp;", "1.2.3.4 ", "é,"])
    return f"<html><body><p>{unit * (200_000 // len(unit))}</p></body></html>".encode()


def _noise(draw: Draw) -> bytes:
    return b"<html>" + draw.randbytes(draw.randrange(5000))


def _mutated(draw: Draw) -> bytes:
    data = bytearray(page(prose("en", draw.randrange(99)), "mutated"))
    for _ in range(draw.randrange(1, 30)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _sound(draw: Draw) -> bytes:
    return page(prose(draw.choice(["en", "de"]), draw.randrange(10**6)), "sound")


PAGES: tuple[Callable[[Draw], bytes], ...] = (
    _scripts, _invisible, _recoded, _surrogates, _nested, _unclosed, _attributes, _zeros, _one_line, _noise, _mutated,
    _sound,
)  # fmt: skip


def archive(seed: int, pages: int) -> bytes:
    """A WARC of so many bad pages; every other one is damaged."""
    draw = random.Random(seed)
    records = [_record(draw, PAGES[(seed + n) % len(PAGES)](draw), f"{seed}/{n}") for n in range(pages)]
    packing = draw.random()
    if packing < 0.5:
        records = [gzip.compress(record, mtime=0) for record in records]
    elif packing < 0.7:
        records = [zstandard.compress(record) for record in records]
    data = bytearray(b"".join(records))
    for _ in range(draw.randrange(1, 5) if seed % 2 else 0):
        _damage(draw, data, records)
    return bytes(data)


def _record(draw: Draw, payload: bytes, name: str) -> bytes:
    encodings = {"gzip": gzip.compress, "deflate": zlib.compress, "x-gzip": gzip.compress, "gzip, gzip": _twice}
    head = [
        b"Content-Type: text/html; charset=" + draw.choice([b"utf-8", b"latin1", b"\xff", b"", b"x" * 999, b"utf-7"])
    ]
    if draw.random() < 0.3:
        encoding = draw.choice(list(encodings))
        payload = encodings[encoding](payload)
        payload = payload[: draw.choice([None, None, -1, -9, len(payload) // 2])]
        head.append(b"Content-Encoding: " + draw.choice([encoding, encoding, "br", "unheard-of"]).encode())
    status = draw.choice([b"200 OK"] * 9 + [b"99999999999 ?"])
    block = b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(head) + b"\r\n\r\n" + payload
    url = (
        draw.choice(["https://example.org/", "https://пример.рф/", "http://[::1/", "http://\u202e.example/%ff?"]) + name
    )
    date = draw.choice(["2024-05-01T00:00:00Z", "yesterday", "", "2024-05-01T00:00:00.123456Z"])
    lines = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {date}\r\n"
    kind = f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    return (lines + kind).encode() + block + b"\r\n\r\n"


def _twice(data: bytes) -> bytes:
    return gzip.compress(gzip.compress(data))


def _damage(draw: Draw, data: bytearray, records: list[bytes]) -> None:
    at = draw.randrange(len(data))
    kind = draw.randrange(5)
    if kind == 0:
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del data[at : at + draw.randrange(500)]
    elif kind == 2:
        data[at:at] = draw.randbytes(draw.randrange(100))
    elif kind == 3:
        data[at:at] = draw.choice(records)
    else:
        data[at : at + 9] = b"\0" * 9


def lines(seed: int, count: int) -> bytes:
    """JSON lines of which many are none, or hold what they should not."""
    draw = random.Random(seed)
    made: list[bytes] = []
    for number in range(count):
        text = draw.choice([" ".join(prose("en", number)), script_line(draw, draw.choice(list(SCRIPTS.values())))])
        odd = draw.choice([text, text + "\ud83d", "\0" + text, None, 7, [text], {"a": text}, "", " \u200b", text * 50])
        row: dict[str, object] = {
            "text": odd,
            "id": draw.choice([number, "\udfff", None, 1e400]),
            "url": draw.choice(["", "\ud800", 5]),
            "date": draw.choice(["2024-05-01", "yesterday", None, 5, "0001-01-01T00:00+14:00", "\ud800", ["2024"]]),
        }
        line = json.dumps(row).encode()
        odd_lines = [line[: draw.randrange(len(line))], b"\xff\xfe", b"[" * 9999, b"NaN", b"9" * 9999, b"", b" \r"]
        made.append(draw.choice([line, line, line, *odd_lines]))
    return b"\n".join(made)
