"""WARC archives (ISO 28500): writing pages as gzipped response records, and reading archives that may be damaged.

Written files have one gzip member a record and no time stamps but the pages' own, so equal pages give equal bytes.
Reading uses FastWARC and, where it stops at damage, looks for the next record that can be read: a truncated or corrupt
record costs that record only. (An archive that is one single gzip member or zstd frame is lost from the first bad byte
on.)
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import re
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines.http_body import read_body
from pipelines.members import GZIP, PLAIN, Behind, cut_off, dictionary, next_record

MAX_BLOCK = 32 * 2**20
"""Larger records, and pages larger than that once unpacked, are passed over: no page of text is that long."""
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


class WarcWriter:
    """Writes one archive. A context manager; the file is complete when the block ends."""

    def __init__(self, path: Path, description: str) -> None:
        self._file = path.open("wb")
        block = f"software: illada\r\nformat: WARC File Format 1.1\r\ndescription: {description}\r\n".encode()
        self._record("warcinfo", path.name, datetime.fromtimestamp(0, UTC), "application/warc-fields", block, [])

    def write(self, url: str, payload: bytes, date: datetime, content_type: str = "text/html") -> None:
        """Append a response record as if `url` had been fetched at `date` (with time zone) and had given `payload`."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(payload)}\r\n\r\n"
        digest = base64.b32encode(hashlib.sha1(payload, usedforsecurity=False).digest()).decode()
        extra = [("WARC-Target-URI", url), ("WARC-Payload-Digest", f"sha1:{digest}")]
        if content_type == "text/html":
            extra.append(("WARC-Identified-Payload-Type", content_type))
        self._record("response", url, date, "application/http; msgtype=response", head.encode() + payload, extra)

    def _record(
        self, kind: str, name: str, date: datetime, content_type: str, block: bytes, extra: list[tuple[str, str]]
    ) -> None:
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {name} {hashlib.sha256(block).hexdigest()}")
        fields = [
            ("WARC-Type", kind),
            ("WARC-Record-ID", f"<urn:uuid:{identity}>"),
            ("WARC-Date", date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")),
            *extra,
            ("Content-Type", content_type),
            ("Content-Length", str(len(block))),
        ]
        head = "WARC/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields) + "\r\n"
        gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._file.write(gzip.compress(head.encode() + block + b"\r\n\r\n") + gzip.flush())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A record that holds content: a `response`, or a `conversion` (text extracted by the crawler, as in WET files).

    `payload` has HTTP transfer and content encodings undone; None when it is larger than MAX_BLOCK, before or after.
    `date` is when it was fetched (ISO 8601), empty when the record does not say; `size` is in bytes. `media_type` is as
    identified by the crawler, else as the server said, else empty. `status` is 0 without HTTP.
    """

    url: str
    payload: bytes | None
    size: int
    media_type: str
    charset: str
    status: int
    date: str
    extracted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A place in an archive, a line or a file that could not be read."""

    where: str
    error: str
    reason: str = "damaged"


class _Unreadable(Exception):
    """The record at hand is damaged in a way FastWARC does not see."""


def read_warc(path: Path) -> Iterator[Page | Damage]:
    """Every page of the archive in order, and every damaged place. Raises OSError when the file cannot be read."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield from _read(path, data)


def _read(path: Path, data: mmap.mmap) -> Iterator[Page | Damage]:
    start: int | None = 0
    gap: Damage | None = None  # damage somewhere between the last good record and `start`
    while start is not None:
        good = current = following = None
        member = start
        try:
            for current, record in _records(path, start, dictionary(data) if start else b""):
                if data[current : current + len(GZIP)] == GZIP:
                    member = current
                size = record.content_length
                page = _page(record)
                if data[current : current + len(PLAIN)] == PLAIN:
                    _check_end(data, current, size)
                if gap:
                    yield gap
                    gap = None
                good = current
                if page:
                    yield page
        except (OSError, _Unreadable) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if good is not None and good == current:  # a good record, then no next one
                gap = Damage(where=f"after the record at byte {good}", error=str(error))
                following = next_record(data, good)
                if following is None:
                    yield gap
            else:  # this very record; a gap noted before it was this record
                damaged = start if current is None else current
                yield Damage(where=f"record at byte {damaged}", error=str(error))
                gap = None
                following = next_record(data, damaged)
        else:
            if cut_off(data, member):
                yield Damage(where=f"after the record at byte {good or 0}", error="ends in the middle of a gzip member")
        start = following


def _records(path: Path, start: int, head: bytes) -> Iterator[tuple[int, Any]]:
    """The records from byte `start` on, and where each begins; `head` is what has to be read before."""
    from fastwarc.warc import ArchiveIterator

    with path.open("rb") as file:
        file.seek(start)
        stream: Any = Behind(head, file)  # all of a file that is asked for
        for record in ArchiveIterator(stream, parse_http=False, fsspec_args=False):
            yield start - len(head) + record.stream_pos, record


def _page(record: Any) -> Page | None:
    """The record as a page, None when it is of another kind. Raises OSError or _Unreadable for damage."""
    from fastwarc.warc import WarcRecordType

    if record.record_type not in (WarcRecordType.response, WarcRecordType.conversion):
        record.consume()
        return None
    size = record.content_length
    about = {
        "url": (record.headers.get("WARC-Target-URI") or "").strip("<>"),
        "date": date if _DATE.fullmatch(date := (record.headers.get("WARC-Date") or "").strip()) else "",
        "extracted": record.record_type == WarcRecordType.conversion,
    }
    too_large = Page(**about, payload=None, size=size, media_type="", charset="", status=0)
    if size > MAX_BLOCK:
        if (passed := record.consume()) < size:
            raise _Unreadable(f"ends after {passed} of {size} bytes")
        return too_large
    record.freeze()
    if record.content_length < size:
        raise _Unreadable(f"ends after {record.content_length} of {size} bytes")
    http = None
    if record.is_http:
        record.parse_http(auto_decode="none")
        http = record.http_headers
    payload = record.reader.read() if http is None else read_body(record, MAX_BLOCK + 1)
    if len(payload) > MAX_BLOCK:
        return too_large
    declared = record.http_content_type if http else (record.headers.get("Content-Type") or "").partition(";")[0]
    return Page(
        **about,
        payload=payload,
        size=len(payload),
        media_type=(record.headers.get("WARC-Identified-Payload-Type") or declared or "").strip().lower(),
        charset=(record.http_charset or "") if http else "",
        status=(http.status_code or 0) if http else 0,
    )


def _check_end(data: mmap.mmap, position: int, size: int) -> None:
    """Without compression, only what follows a record tells whether it is as long as it says.

    That is two line ends, or whatever line ends before the next header: hand-made archives are often off by one.
    """
    end = data.find(b"\r\n\r\n", position) + 4 + size
    rest = data[end : end + 16]
    if not rest.startswith(b"\r\n\r\n") and rest.lstrip(b"\r\n")[:5] not in (PLAIN, b""):
        raise _Unreadable("it does not end where its length says")
