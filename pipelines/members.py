"""What an archive is packed in: gzip members or zstd frames, one a record or one for all, or nothing.

Where the next record begins after damage, and whether an archive ends where a member does. Archives in zstd may begin
with a dictionary for all frames, in a skippable frame of its own (WARC file format: Zstandard compression, IIPC draft).
"""

from __future__ import annotations

import contextlib
import io
import mmap
import re
import zlib
from typing import IO

import zstandard

PLAIN = b"WARC/"
GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_DICTIONARY = b"\x5d\x2a\x4d\x18"
_LARGEST_DICTIONARY = 16 * 2**20
_FIRST_BLOCK = 2**17 + 64  # bytes with which a zstd frame gives its first ones
_CHUNK = 2**20
_HEADER = re.compile(rb"WARC/[01]\.\d+\r\n[A-Za-z-]+:")


def looks_like_an_archive(head: bytes) -> bool:
    """Whether a file that begins so may be a WARC file, packed or not."""
    return head.startswith((PLAIN, GZIP[:2], _ZSTD)) or _SKIPPABLE.match(head) is not None


def dictionary(data: mmap.mmap) -> bytes:
    """The frame that holds the dictionary of an archive, or nothing."""
    size = int.from_bytes(data[4:8], "little")
    return data[: 8 + size] if data[:4] == _DICTIONARY and size <= _LARGEST_DICTIONARY else b""


class Behind:
    """A file from its position on, read as one that has `head` before it."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file, self._given = head, file, 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        part, self._head = self._head[:size], self._head[size:]
        part += self._file.read(size - len(part))
        self._given += len(part)
        return part

    def tell(self) -> int:
        """How many bytes were read."""
        return self._given


def next_record(data: mmap.mmap, after: int) -> int | None:
    """Where the next record behind `after` begins: a gzip member, a zstd frame, or else text, with a WARC header."""
    for magic, begins in ((GZIP, _gzip_record), (_ZSTD, _ZstdRecord(dictionary(data)))):
        position = data.find(magic, after + 1)
        while position >= 0:
            if begins(data, position):
                return position
            position = data.find(magic, position + 1)
    match = _HEADER.search(data, after + 1)
    return match.start() if match else None


def _gzip_record(data: mmap.mmap, position: int) -> bool:
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(data[position : position + 512], len(PLAIN)) == PLAIN
    return False


class _ZstdRecord:
    """Tells whether a frame has a record; `frame` holds the dictionary, plain or itself a frame."""

    def __init__(self, frame: bytes) -> None:
        content = frame[8:]
        if content.startswith(_ZSTD):
            with contextlib.suppress(zstandard.ZstdError):
                content = zstandard.ZstdDecompressor().stream_reader(content).read(_LARGEST_DICTIONARY)
        self._unpacker = zstandard.ZstdDecompressor(zstandard.ZstdCompressionDict(content) if content else None)

    def __call__(self, data: mmap.mmap, position: int) -> bool:
        with contextlib.suppress(zstandard.ZstdError):
            frame = io.BytesIO(data[position : position + _FIRST_BLOCK])
            return self._unpacker.stream_reader(frame).read(len(PLAIN)) == PLAIN
        return False


def cut_off(data: mmap.mmap, member: int) -> bool:
    """Whether the file ends in the middle of a gzip member, of which the last known one begins at `member`."""
    while data[member : member + len(GZIP)] == GZIP:
        unpacker, position = zlib.decompressobj(31), member
        try:
            while not unpacker.eof and position < len(data):
                chunk = data[position : position + _CHUNK]
                position += len(chunk)
                unpacker.decompress(chunk, _CHUNK)
                while unpacker.unconsumed_tail:
                    unpacker.decompress(unpacker.unconsumed_tail, _CHUNK)
        except zlib.error:
            return False  # damage of another kind, which was seen
        if not unpacker.eof:
            return True
        member = position - len(unpacker.unused_data)
    return GZIP.startswith(data[member : member + len(GZIP)]) and member < len(data)
