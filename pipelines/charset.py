"""From bytes to text: which encoding a page or a file is in, by what it says of itself and by what it looks like.

In this order: byte-order mark, UTF-16 by its zero bytes, UTF-8, what the server says, what the page says, and a port of
Mozilla's statistical detector (uchardet, as in resiliparse). Labels mean what they mean to browsers (WHATWG Encoding).
"""

from __future__ import annotations

import codecs
import re

_BOMS = (  # UTF-32 first: its little-endian mark begins as that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDER = {  # what is sent under a label is often of the superset that browsers take it for
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "uhc": "cp949",
    "ks_c_5601-1987": "cp949",
    "big5": "big5hkscs",
    "iso8859-11": "cp874",
    "iso2022_jp": "iso2022_jp_ext",
}
_DETECTED = {**_WIDER, "koi8-r": "koi8-u", "iso8859-1": "cp1252", "iso8859-15": "cp1252", "ascii": "cp1252"}
_NEVER = ("cp437", "cp850", "cp852", "cp855", "cp865", "viscii", "hz", "iso2022_kr", "utf-8", "mac-centraleurope")
"""Encodings that the detector takes short texts for and that the web does not use."""
_SOUTH_SLAVIC = {
    "cp1250": (frozenset(b"\xe8\xe6\x9e\x9a\xf0\xc8\xc6\x8e\x8a\xd0"), frozenset(b"\x9e\x9a\x8e\x8a")),
    "iso8859-2": (frozenset(b"\xe8\xe6\xbe\xb9\xf0\xc8\xc6\xae\xa9\xd0"), frozenset(b"\xbe\xb9\xae\xa9")),
}
"""The bytes of č ć ž š đ, which five letters the detector knows no language by, and those of ž š."""
_LATIN = re.compile(r"cp125[0247]|iso8859-(1|2|3|4|9|10|13|14|15|16)")
_LABEL = re.compile(
    rb"""<(?:meta\b[^>]{0,200}?\bcharset|\?xml\b[^>]{0,100}?\bencoding)\s*=\s*["']?\s*([\w:.-]{2,40})""", re.I
)
_HIGH = re.compile(rb"[\x80-\xff]")
_LETTER = re.compile(rb"[A-Za-z]")
_TAG = re.compile(rb"<[^<>]{0,2000}>")
_ISO_2022_JP = b"\x1b$B"
_SAMPLE = 2**17  # bytes that are looked at
_HEAD = 4096


def decode(payload: bytes, charset: str = "") -> str:
    """The text of `payload`, of which a server (if any) says that it is in `charset`.

    Bytes that fit no encoding become U+FFFD. The text has no lone surrogates.
    """
    mark = next((name for mark, name in _BOMS if payload.startswith(mark)), None) or _zero_bytes(payload[:_HEAD])
    if mark is not None and (text := _fitting(payload, mark)) is not None:
        return text
    try:
        if _ISO_2022_JP in payload[:_SAMPLE]:  # all of it ASCII
            return payload.decode("iso2022_jp_ext")
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    for name in ("utf-8", *_declared(payload, charset)):
        if (text := _fitting(payload, name)) is not None:
            return text
    return _storable(payload.decode(_detected(payload), errors="replace"))


def _fitting(payload: bytes, encoding: str) -> str | None:
    """The text in `encoding`, None when more than one in ten of what is beyond ASCII does not fit."""
    text = _storable(payload.decode(encoding, errors="replace"))
    wrong = text.count("\ufffd")
    beyond = len(text) - len(text.encode("ascii", errors="ignore")) if wrong else 0
    return text if wrong * 10 <= beyond else None


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _zero_bytes(head: bytes) -> str | None:
    """UTF-16 without a mark: spaces, line ends and tags have a zero byte, always in the same half of a unit."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) * 50 < len(head) or min(even, odd) * 50 > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _declared(payload: bytes, charset: str) -> list[str]:
    """Encodings by the labels of server and page that may be true, the likelier first.

    What a server calls Latin-1 may be its default: the page knows better, and text that is mostly beyond ASCII is not
    of the Latin script.
    """
    match = _LABEL.search(payload[:_HEAD])
    labels = [charset, match[1].decode() if match else ""]
    names = [name for name in map(_codec, labels) if name is not None]
    if len(names) == 2 and names[0] == "cp1252":
        names.reverse()
    if any(_LATIN.fullmatch(name) for name in names) and _mostly_beyond_ascii(payload):
        names = [name for name in names if not _LATIN.fullmatch(name)]
    return names


def _codec(label: str) -> str | None:
    """Python's name of the encoding that browsers understand by `label`."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    label = label.strip().lower()
    if not label.isascii():
        return None
    name = _WIDER.get(label) or map_encoding_to_html5(label, fallback_utf8=False)
    if name is None or name.startswith("utf"):  # which it is not, as was seen
        return None
    name = _WIDER.get(name, name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def _mostly_beyond_ascii(payload: bytes) -> bool:
    text = _TAG.sub(b" ", payload[:_SAMPLE])
    high = len(_HIGH.findall(text))
    return high > len(_LETTER.findall(text))


def _detected(payload: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    first = _HIGH.search(payload)
    start = max(0, first.start() - _HEAD) if first else 0
    sample = payload[start : start + _SAMPLE]
    name = detect_encoding(sample, max_len=_SAMPLE, html5_compatible=False)
    if name is None or name in _NEVER:
        used = {byte for byte in sample if byte >= 0x8A} - set(range(0x91, 0x98))  # quotes, dashes
        fits = (name for name, (letters, some) in _SOUTH_SLAVIC.items() if used <= letters and used & some)
        return next(fits, "cp1252")
    try:
        return codecs.lookup(_DETECTED.get(name, name)).name
    except LookupError:
        return "cp1252"
