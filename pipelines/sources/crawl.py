"""The first pages of one web archive fetched over HTTPS (a Common Crawl file, say), as far as they are wanted."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import IO, Any
from urllib.request import urlopen

from illada.artifacts import Progress
from pipelines.sources.base import SourceUnavailable, WebPage

_TIMEOUT = 30.0
_TOTAL_TIMEOUT = 900.0
_HTML = ("text/html", "application/xhtml+xml")


def fetch_pages(url: str, count: int, progress: Progress) -> Iterator[WebPage]:
    """The first `count` HTML responses of the archive at `url`; the download ends with the last of them.

    Raises:
        SourceUnavailable: the archive cannot be fetched or read, holds no page, or takes too long.
    """
    progress.start(count, "pages")
    try:
        with urlopen(url, timeout=_TIMEOUT) as stream:
            yield from pages_of(stream, count)
    except (OSError, ValueError, HTTPException) as error:
        raise SourceUnavailable(f"{url}: {error}") from None


def pages_of(stream: IO[bytes], count: int) -> Iterator[WebPage]:
    """The first `count` successful HTML responses of an archive. Raises OSError for a damaged one."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    found, deadline = 0, time.monotonic() + _TOTAL_TIMEOUT
    for record in ArchiveIterator(stream, record_types=WarcRecordType.response, auto_decode="all", fsspec_args=False):
        if time.monotonic() > deadline:
            raise SourceUnavailable(f"only {found} pages came within {_TOTAL_TIMEOUT:.0f} s")
        page = _page(record)
        if page is not None:
            yield page
            found += 1
            if found == count:
                return
    if not found:
        raise SourceUnavailable("the archive holds no HTML page")


def _page(record: Any) -> WebPage | None:
    http = record.http_headers
    if http is None or http.status_code != 200 or record.http_content_type not in _HTML or not record.record_date:
        return None
    charset = f"; charset={record.http_charset}" if record.http_charset else ""
    payload = record.reader.read()
    return WebPage(
        url=record.headers["WARC-Target-URI"].strip("<>"),
        date=record.record_date,
        read=functools.partial(bytes, payload),
        content_type=record.http_content_type + charset,
    )
