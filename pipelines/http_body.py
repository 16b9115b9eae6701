"""The body of an archived HTTP response with its transfer and content encodings undone, in bounded memory.

FastWARC undoes content encodings all at once, and a kilobyte may unpack to gigabytes: its readers are stacked here, so
that no more is unpacked than is asked for. Its reader of gzip takes a body that is cut short for a whole one: that one
is our own.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

_MOST_ENCODINGS = 8  # one on top of the other
_CHUNK = 2**16


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
    from fastwarc.stream_io import BrotliReader, ChunkedReader, ZstdReader

    return {
        "chunked": ChunkedReader,
        "gzip": functools.partial(_Inflated, gzip=True),
        "x-gzip": functools.partial(_Inflated, gzip=True),
        "deflate": functools.partial(_Inflated, gzip=False),
        "br": BrotliReader,
        "zstd": ZstdReader,
    }


class _Inflated:
    """The members of a gzip body (RFC 1952), or a zlib stream (RFC 1950) that may lack its header, as some servers do.

    What follows the last member is passed over, as browsers do.
    """

    def __init__(self, stream: Any, gzip: bool) -> None:
        self._stream, self._gzip = stream, gzip
        self._input = b""
        self._unpacker: Any = None
        self._ended, self._given = False, 0

    def tell(self) -> int:
        """How many bytes were read."""
        return self._given

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises OSError for what is no such body, or ends too soon."""
        found = []
        while size > 0 and not self._ended:
            if not self._input:
                self._input = self._stream.read(_CHUNK)
            if self._unpacker is None:
                self._begin()
                continue
            if not self._input:
                raise OSError("its body ends in the middle of its compressed data")
            try:
                part = self._unpacker.decompress(self._input, size)
            except zlib.error as error:
                raise OSError(str(error)) from None
            found.append(part)
            size -= len(part)
            self._given += len(part)
            self._input = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                self._input, self._unpacker = self._unpacker.unused_data, None
                self._ended = not self._another()
        return b"".join(found)

    def _begin(self) -> None:
        """Choose the format by the first bytes of the body, of which there may be none."""
        head = int.from_bytes(self._input[:2], "big")
        with_header = self._gzip or ((head >> 8) & 15 == zlib.DEFLATED and head % 31 == 0)
        self._unpacker = zlib.decompressobj((31 if self._gzip else 15) if with_header else -15)
        self._ended = not self._input

    def _another(self) -> bool:
        if len(self._input) < 2:
            self._input += self._stream.read(_CHUNK)
        return self._gzip and self._input.startswith(b"\x1f\x8b")
