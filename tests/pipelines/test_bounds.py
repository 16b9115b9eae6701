"""Small files that unpack to half a gigabyte, absurd lengths and depths: named, passed over, in little memory.

Each case is read in a process of its own that may not have more than so much memory.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

MEGABYTES = 256
BOMB = 512  # megabytes
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
READ = """
import json, resource, sys
from pathlib import Path
from pipelines.readers import read_json_lines
from pipelines.warc import Damage, read_warc
import fastwarc.stream_io, fastwarc.warc
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]) * 2**20,) * 2)
path = Path(sys.argv[1])
def told(item):
    if isinstance(item, Damage):
        return item.error
    if isinstance(item, dict):
        return item["text"]
    return "too large" if item.payload is None else item.payload.decode()
print(json.dumps([told(item) for item in (read_json_lines if ".jsonl" in path.name else read_warc)(path)]))
"""
TABLE = """
import json, resource, sys
from pathlib import Path
import pyarrow.parquet
from pipelines.readers import Reader
from pipelines.recorder import Recorder
def most():  # megabytes in memory, so far; an allocator may reserve addresses for more
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
columns = {"text": "text", "id": None, "url": None, "date": None}
payload = {"kind": "parquet", "source": "own", "columns": columns, "first": 0, "last": 1}
before, recorder = most(), Recorder(["read"], "table", 0.0)
texts = [document.text[-7:] for document in Reader(Path(sys.argv[1]), payload, recorder).run()]
print(json.dumps([*texts, *recorder.funnel.rows()[0]["dropped"], most() - before]))
"""


def zipped(head: bytes = b"", tail: bytes = b"") -> bytes:
    """512 MB of one letter between head and tail."""
    packer, letters = zlib.compressobj(9, zlib.DEFLATED, 31), b"a" * 2**20
    return b"".join(
        [packer.compress(head), *(packer.compress(letters) for _ in range(BOMB)), packer.compress(tail), packer.flush()]
    )


def record(block: bytes, length: int | None = None) -> bytes:
    length = len(block) if length is None else length
    head = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org\r\nContent-Length: {length}\r\n"
    return head.encode() + b"Content-Type: application/http; msgtype=response\r\n\r\n" + block


PLAIN = record(PAGE + b"\r\n<p>good") + b"\r\n\r\n"
GOOD = gzip.compress(PLAIN)


def encoded(names: bytes, body: bytes) -> bytes:
    return gzip.compress(record(PAGE + b"Content-Encoding: " + names + b"\r\n\r\n" + body) + b"\r\n\r\n")


def brotli_bomb() -> bytes:
    packer = brotli.Compressor(quality=1)
    return b"".join(packer.process(b"a" * 2**20) for _ in range(BOMB)) + packer.finish()


def zstd_bomb(head: bytes = b"", tail: bytes = b"") -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    parts = [packer.compress(part) for part in (head, *[b"a" * 2**20] * BOMB, tail)]
    return b"".join([*parts, packer.flush()])


CASES: dict[str, tuple[str, Callable[[], bytes], list[str]]] = {
    "record": ("a.warc.gz", lambda: zipped(record(b"", BOMB * 2**20), b"\r\n\r\n") + GOOD, ["too large"]),
    "gzip": ("a.warc.gz", lambda: encoded(b"gzip", zipped()) + GOOD, ["too large"]),
    "archive in zstd": (
        "a.warc.zst",
        lambda: zstd_bomb(record(b"", BOMB * 2**20), b"\r\n\r\n") + zstandard.compress(PLAIN),
        ["too large"],
    ),
    "twice": ("a.warc.gz", lambda: encoded(b"gzip, x-gzip", gzip.compress(zipped())) + GOOD, ["too large"]),
    "brotli": ("a.warc.gz", lambda: encoded(b"br", brotli_bomb()) + GOOD, ["too large"]),
    "zstd": ("a.warc.gz", lambda: encoded(b"zstd", zstd_bomb()) + GOOD, ["too large"]),
    "encoded a thousand times": ("a.warc.gz", lambda: encoded(b"gzip," * 1000, b"") + GOOD, ["encoded 1000 times"]),
    "header": ("a.warc.gz", lambda: zipped(b"WARC/1.1\r\nX: ") + GOOD, ["header length"]),
    "no archive": ("a.warc.gz", lambda: zipped() + GOOD, ["Invalid WARC header"]),
    "length of an exabyte": ("a.warc.gz", lambda: gzip.compress(record(b"a", 10**18)) + GOOD, ["of 1000000000"]),
    "line, gzip": (
        "a.jsonl.gz",
        lambda: zipped(b'{"text": "', b'"}\n{"text": "<p>good"}'),
        ["is longer than"],
    ),
    "line, zstd": (
        "a.jsonl.zst",
        lambda: zstd_bomb(b'{"text": "', b'"}\n{"text": "<p>good"}'),
        ["is longer than"],
    ),
    "nested a million deep": (
        "a.jsonl",
        lambda: b"[" * 10**6 + b"\n" + b'{"text":' * 10**5 + b'\n{"text": "<p>good"}',
        ["recursion", "recursion"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_memory_is_bounded_and_what_follows_is_read(tmp_path: Path, case: str) -> None:
    name, make, messages = CASES[case]
    path = tmp_path / name
    path.write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(MEGABYTES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *told, last = json.loads(done.stdout)
    assert last == "<p>good"
    assert len(told) == len(messages)
    assert all(message in item for message, item in zip(messages, told, strict=True)), told


def test_rows_of_huge_cells_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    cells = pa.array([b"a" * (2**25 + 1), *[b"a" * 2**24] * 15, b"<p>good"]).cast(pa.string())
    pq.write_table(pa.table({"text": cells}), path, compression="zstd", use_dictionary=False, write_batch_size=1)
    done = subprocess.run([sys.executable, "-c", TABLE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *texts, grown = json.loads(done.stdout)
    assert texts == [*["aaaaaaa"] * 15, "<p>good", "too_large"]
    assert grown < MEGABYTES
