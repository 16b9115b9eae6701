"""The body of an archived HTTP response with its transfer and content encodings undone, in bounded memory.

FastWARC undoes content encodings all at once, and a kilobyte may unpack to gigabytes: its readers are stacked here, so
that no more is unpacked than is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MOST_ENCODINGS = 8  # one on top of the other


def read_body(record: Any, limit: int) -> bytes:
    """At most `limit` bytes of the body of a FastWARC record whose HTTP header was parsed without decoding.

    Encodings that have no meaning (RFC 9110, 8.4.1) are taken for none, as browsers do. Raises OSError for a body that
    is not what its header says, or is encoded more than eight times.
    """
    headers = record.http_headers
    names = [
        name.strip().lower()
        for header in ("Content-Encoding", "Transfer-Encoding")
        for name in ",".join(headers.get_multiple(header)).split(",")
    ]
    wrappers = [wrap for name in names if (wrap := _readers().get(name)) is not None]
    if len(wrappers) > _MOST_ENCODINGS:
        raise OSError(f"its body is encoded {len(wrappers)} times")
    reader = record.reader
    for wrap in reversed(wrappers):  # the last was applied last
        reader = wrap(reader)
    return bytes(reader.read(limit))


@functools.cache
def _readers() -> dict[str, Callable[[Any], Any]]:
    from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader

    return {
        "chunked": ChunkedReader,
        "gzip": GzipReader,
        "x-gzip": GzipReader,
        "deflate": functools.partial(GzipReader, zlib=True),
        "br": BrotliReader,
        "zstd": ZstdReader,
    }
