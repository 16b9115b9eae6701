"""Archives: written to the letter, read in spite of damage."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import brotli
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

from illada.artifacts import sha256_file
from pipelines.warc import Damage, Page, WarcWriter, read_warc

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "warc"
DATE = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
COUNT = 6


def payload(number: int) -> bytes:
    return b"<html><body>" + b"".join(b"<p>%d of page %d</p>" % (i * i, number) for i in range(200)) + b"</body></html>"


def record(number: int, http: bytes | None = None) -> bytes:
    block = http or b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + payload(number)
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
        f"WARC-Target-URI: https://example.org/{number}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


PLAIN = [record(number) for number in range(COUNT)]
ZIPPED = [gzip.compress(data, mtime=0) for data in PLAIN]
ZSTD = [zstandard.compress(data) for data in PLAIN]
DICTIONARY = zstandard.train_dictionary(4096, PLAIN * 50)
CODED = [zstandard.ZstdCompressor(dict_data=DICTIONARY).compress(data) for data in PLAIN]


def skippable(content: bytes) -> bytes:
    """The frame in which an archive carries its dictionary."""
    return b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


WHOLE = {
    "plain": PLAIN,
    "gzip": ZIPPED,
    "gzip, one member": [gzip.compress(b"".join(PLAIN))],
    "zstd": ZSTD,
    "zstd, one frame": [zstandard.compress(b"".join(PLAIN))],
    "zstd, size unknown": [zstandard.ZstdCompressor(write_content_size=False).compress(b"".join(PLAIN))],
    "zstd, dictionary": [skippable(DICTIONARY.as_bytes()), *CODED],
    "zstd, packed dictionary": [skippable(zstandard.compress(DICTIONARY.as_bytes())), *CODED],
}


def damaged(data: bytes, at: int, count: int = 20) -> bytes:
    return data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + count]) + data[at + count :]


def read(tmp_path: Path, data: bytes) -> tuple[list[int], list[Damage]]:
    """Numbers of the pages read (each checked to be whole), and the damage."""
    path = tmp_path / "archive"
    path.write_bytes(data)
    pages, damage = [], []
    for item in read_warc(path):
        if isinstance(item, Page):
            number = int(item.url.rpartition("/")[2])
            assert item.payload == payload(number)
            pages.append(number)
        else:
            damage.append(item)
    return pages, damage


def test_written_archives_are_valid(tmp_path: Path) -> None:
    with WarcWriter(tmp_path / "a.warc.gz", "test") as writer:
        for number in range(3):
            writer.write(f"https://example.org/{number}", payload(number), DATE)
    data = (tmp_path / "a.warc.gz").read_bytes()
    assert data.count(b"\x1f\x8b\x08") >= 4, "a gzip member for each record"
    records = list(ArchiveIterator(str(tmp_path / "a.warc.gz"), fsspec_args=False, parse_http=False))
    assert records[0].record_type == WarcRecordType.warcinfo
    for number, item in enumerate(ArchiveIterator(str(tmp_path / "a.warc.gz"), record_types=WarcRecordType.response)):
        assert item.headers["WARC-Target-URI"] == f"https://example.org/{number}"
        assert item.headers["WARC-Date"] == "2024-05-01T12:30:00Z"
        assert item.http_content_type == "text/html"
        assert item.verify_payload_digest()
        assert item.reader.read() == payload(number)
    first = [page for page in read_warc(tmp_path / "a.warc.gz") if isinstance(page, Page)]
    assert [page.payload for page in first] == [payload(number) for number in range(3)]
    assert {page.date for page in first} == {"2024-05-01T12:30:00Z"}


def test_equal_pages_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with WarcWriter(tmp_path / folder / "0.warc.gz", "test") as writer:
            for number in range(3):
                writer.write(f"https://example.org/{number}", payload(number), DATE)
    assert sha256_file(tmp_path / "a" / "0.warc.gz") == sha256_file(tmp_path / "b" / "0.warc.gz")


@pytest.mark.parametrize("data", [b"".join(ZIPPED), b"".join(PLAIN), gzip.compress(b"".join(PLAIN))])
def test_sound_archives(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) == (list(range(COUNT)), [])


START_2 = len(ZIPPED[0]) + len(ZIPPED[1])
BROKEN = {
    "truncated": (b"".join(ZIPPED)[:-100], [0, 1, 2, 3, 4], 1),
    "bytes flipped": (damaged(b"".join(ZIPPED), START_2 + len(ZIPPED[2]) // 2), [0, 1, 3, 4, 5], 1),
    "two in a row": (
        damaged(
            damaged(b"".join(ZIPPED), START_2 + len(ZIPPED[2]) // 2),
            START_2 + len(ZIPPED[2]) + len(ZIPPED[3]) // 2,
        ),
        [0, 1, 4, 5],
        2,
    ),
    "gzip header gone": (damaged(b"".join(ZIPPED), START_2, 8), [0, 1, 3, 4, 5], 1),
    "first record": (damaged(b"".join(ZIPPED), 60), [1, 2, 3, 4, 5], 1),
    "last record": (damaged(b"".join(ZIPPED), len(b"".join(ZIPPED)) - 60), [0, 1, 2, 3, 4], 1),
    "garbage between": (b"".join(ZIPPED[:2]) + b"garbage" * 50 + b"".join(ZIPPED[2:]), list(range(COUNT)), 1),
    "checksum": (damaged(b"".join(ZIPPED), START_2 + len(ZIPPED[2]) - 6, 1), [0, 1, 3, 4, 5], 1),
    "another format inside": (
        ZIPPED[0] + gzip.compress(b"text\r\n" * 50) + b"".join(ZIPPED[1:]),
        list(range(COUNT)),
        1,
    ),
    "plain, truncated": (b"".join(PLAIN)[:-900], [0, 1, 2, 3, 4], 1),
    "plain, record cut": (PLAIN[0] + PLAIN[1][:700] + b"".join(PLAIN[2:]), [0, 2, 3, 4, 5], 1),
    "plain, garbage": (PLAIN[0] + b"garbage\r\n" * 50 + b"".join(PLAIN[1:]), list(range(COUNT)), 1),
    "plain, no length": (
        PLAIN[0] + PLAIN[1].replace(b"Length: ", b"Length: x") + b"".join(PLAIN[2:]),
        [0, 2, 3, 4, 5],
        1,
    ),
    "zstd, truncated": (b"".join(ZSTD)[:-60], [0, 1, 2, 3, 4], 1),
    "zstd, garbage": (ZSTD[0] + b"garbage" * 50 + b"".join(ZSTD[1:]), list(range(COUNT)), 1),
    "zstd, record cut": (ZSTD[0] + ZSTD[1][:200] + b"".join(ZSTD[2:]), [0, 2, 3, 4, 5], 1),
    "zstd, dictionary, record cut": (
        b"".join([skippable(DICTIONARY.as_bytes()), CODED[0], CODED[1][:60], *CODED[2:]]),
        [0, 2, 3, 4, 5],
        1,
    ),
    "zstd, packed dictionary, record cut": (
        b"".join([skippable(zstandard.compress(DICTIONARY.as_bytes())), CODED[0], CODED[1][:60], *CODED[2:]]),
        [0, 2, 3, 4, 5],
        1,
    ),
    "checksum missing": (b"".join(ZIPPED)[:-8], list(range(COUNT)), 1),
    "one member, checksum missing": (gzip.compress(b"".join(PLAIN))[:-1], list(range(COUNT)), 1),
    "beginning of a member": (b"".join(ZIPPED[:4]) + ZIPPED[4][:2], [0, 1, 2, 3], 1),
    "header of a member": (b"".join(ZIPPED[:4]) + ZIPPED[4][:30], [0, 1, 2, 3], 1),
    "header of the only member": (ZIPPED[4][:30], [], 1),
    "not an archive": (b"hello world\n" * 10, [], 1),
    "bad chunk": (
        record(9, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\nhello\r\n0\r\n\r\n") + PLAIN[1],
        [1],
        1,
    ),
}


@pytest.mark.parametrize("packing", WHOLE)
def test_what_an_archive_is_packed_in_does_not_matter(tmp_path: Path, packing: str) -> None:
    assert read(tmp_path, b"".join(WHOLE[packing])) == (list(range(COUNT)), [])


@pytest.mark.parametrize("case", BROKEN)
def test_damage_costs_the_damaged_record_only(tmp_path: Path, case: str) -> None:
    data, pages, places = BROKEN[case]
    found, damage = read(tmp_path, data)
    assert found == pages
    assert len(damage) == places, damage
    assert all(item.where and item.error for item in damage)


@pytest.mark.parametrize("date", [b"yesterday", b"", b"2024-05-01", b"2024-05-01T00:00:00Z junk"])
def test_a_date_that_is_none_is_left_out(tmp_path: Path, date: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(PLAIN[0].replace(b"2024-05-01T00:00:00Z", date))
    (page,) = read_warc(path)
    assert isinstance(page, Page) and page.date == ""


def test_every_single_flipped_byte_is_survived(tmp_path: Path) -> None:
    data = b"".join(ZIPPED[:4])
    for at in range(0, len(data), 41):
        found, _ = read(tmp_path, damaged(data, at, 1))
        assert len(set(range(4)) - set(found)) <= 1, at


@pytest.mark.parametrize(
    ("names", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", brotli.compress),
        ("zstd", zstandard.compress),
        ("br, GZIP", lambda data: gzip.compress(brotli.compress(data))),
        ("unheard-of", bytes),
    ],
)
def test_encodings_of_the_body_are_undone(tmp_path: Path, names: str, encode: Callable[[bytes], bytes]) -> None:
    body = encode(payload(1))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {names}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    block = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert read(tmp_path, record(1, block) + PLAIN[2]) == ([1, 2], [])


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("br", brotli.compress),
        ("zstd", zstandard.compress),
        ("br, gzip", lambda data: gzip.compress(brotli.compress(data))),
        ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
    ],
)
def test_a_body_that_is_cut_short_is_damage(tmp_path: Path, name: str, encode: Callable[[bytes], bytes]) -> None:
    head, body = f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\n\r\n".encode(), encode(payload(1))
    assert read(tmp_path, record(1, head + body) + PLAIN[2]) == ([1, 2], [])
    for missing in (1, 9, len(body) // 2, len(body) - 3):
        pages, damage = read(tmp_path, record(1, head + body[:-missing]) + PLAIN[2])
        assert pages == [2] and len(damage) == 1, missing


def test_what_follows_a_gzip_body_is_passed_over(tmp_path: Path) -> None:
    head, page = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", payload(1)
    for body in (gzip.compress(page) + b"\r\n", gzip.compress(page[:99]) + gzip.compress(page[99:]) + bytes(9)):
        assert read(tmp_path, record(1, head + body)) == ([1], [])


def test_empty_file(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == ([], [])


@pytest.mark.skipif(not REAL.exists(), reason="shared data is absent")
def test_archives_of_real_crawlers() -> None:
    """Brackets around addresses, chunked transfer, hand-made lengths, extracted text."""
    counts = {}
    for path in sorted(REAL.glob("*/*.war*")) + sorted(REAL.glob("*/*.wet*")):
        items = list(read_warc(path))
        assert not [item for item in items if isinstance(item, Damage)], path
        counts[path.name] = len(items)
        assert not any(isinstance(item, Page) and item.url.startswith("<") for item in items), path
    assert counts["whirlwind.warc.gz"] == counts["whirlwind.warc"] == counts["whirlwind.warc.wet"] == 1
    assert counts["sample-0000.warc.gz"] == 22
    assert counts["link-extraction-test.warc"] == 7
