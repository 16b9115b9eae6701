"""A datatrove reader over one unit of an acquired source: pages, rows, lines or whole files."""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import IO, Any

import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from illada.config.sources import COLUMNS
from pipelines.charset import decode
from pipelines.code_files import code_language, not_written
from pipelines.documents import SCHEMA, document_id
from pipelines.funnel import utf8_size
from pipelines.precedence import moment
from pipelines.recorder import Recorder
from pipelines.trees import TREES, address, read_files
from pipelines.warc import MAX_BLOCK, Damage, Page, read_warc

READ = "read"
"""The reader's name in the funnel."""
MAX_LINE = 64 * 2**20
"""Bytes of a line of JSON; longer ones are passed over."""
_BATCH, _BATCH_BYTES = 1000, 2**25  # rows at once, and about how much of them
_PASSED = 2**20  # bytes at once
_HTML = ("text/html", "application/xhtml+xml")
_HTML_SIGNS = (b"<!doctype html", b"<html", b"<head", b"<body")


class Reader(PipelineStep):
    """Yields the documents of one unit in order; what cannot be read is counted and named.

    Metadata: url, source, language, language_score, title, date, and `kind`: "html" (a page to extract text from),
    "text" or "code".
    """

    type = "📖 - READER"
    name = "acquired source"

    def __init__(self, path: Path, payload: Mapping[str, Any], recorder: Recorder) -> None:
        """`path` is the unit's file on this machine; nobody looks at it if the payload lists files."""
        super().__init__()
        self._payload, self._recorder = payload, recorder
        self._path, self._source = path, str(payload["source"])

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """All documents of the unit."""
        columns = self._payload["columns"]
        if self._payload["kind"] == "warc":
            documents = self._pages()
        elif self._payload["kind"] in TREES:
            documents = self._files()
        elif self._payload["kind"] == "jsonl":
            documents = self._texts(read_json_lines(self._path), columns)
        elif self._payload["kind"] == "hf-dataset":
            documents = self._texts(self._dataset_rows(), columns)
        elif columns:
            documents = self._texts(self._parquet_rows(sorted(filter(None, columns.values()))), columns)
        else:
            documents = self._own()
        yield from self._recorder.funnel.kept(READ, documents)

    def _pages(self) -> Iterator[Document]:
        for page in read_warc(self._path):
            if isinstance(page, Damage):
                self._lose(page)
                continue
            self._recorder.funnel.read(READ, page.size)
            payload, reason = page.payload or b"", _unwanted(page)
            text = "" if reason else decode(payload, page.charset)
            kind = "text" if page.extracted else "html"
            document = self._document(text, (page.url, payload), page.url, kind, page.date)
            if reason:
                self._recorder.reject(READ, document, reason)
            else:
                yield document

    def _texts(self, rows: Iterator[dict[str, Any] | Damage], columns: Mapping[str, str | None]) -> Iterator[Document]:
        """Documents of the user's own tables; `columns` maps text, id, url and date to column names or None."""
        for row in rows:
            if isinstance(row, Damage):
                self._lose(row)
                continue
            text, identity, url, when = (row.get(name) if (name := columns[key]) else None for key in COLUMNS)
            text = _storable(text) if isinstance(text, str) else ""
            size = utf8_size(text)
            self._recorder.funnel.read(READ, size)
            url = _storable(str(url or ""))
            document = self._document(text, (text if identity is None else str(identity),), url, "text", _iso(when))
            reason = "too_large" if size > MAX_BLOCK else None if text.strip() else "empty"
            if reason:
                self._recorder.reject(READ, document, reason)
            else:
                yield document

    def _files(self) -> Iterator[Document]:
        """A document a file: text in a language to be found out, or code."""
        kind = self._payload["kind"]
        for file in read_files(self._payload["files"], self._source):
            if isinstance(file, Damage):
                self._lose(file)
                continue
            self._recorder.funnel.read(READ, utf8_size(file.text))
            document = self._document(file.text, (file.name, file.content), address(self._source, file.name), kind)
            reason = None if file.text.strip() else "empty"
            if kind == "code":
                document.metadata |= {"language": code_language(file.name), "language_score": 1.0}
                reason = reason or not_written(file.text)
            if reason:
                self._recorder.reject(READ, document, reason)
            else:
                yield document

    def _own(self) -> Iterator[Document]:
        """Documents in this project's own form, which acquisition made of code."""
        for row in self._parquet_rows(SCHEMA.names):
            self._recorder.funnel.read(READ, utf8_size(row["text"]))
            text, identity = row.pop("text"), row.pop("id")
            yield Document(text=text, id=identity, metadata={**row, "kind": "code"})

    def _parquet_rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            for group in range(self._payload["first"], self._payload["last"]):
                about = file.metadata.row_group(group)
                rows = max(1, min(_BATCH, _BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))
                for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns):
                    yield from batch.to_pylist()

    def _dataset_rows(self) -> Iterator[dict[str, Any]]:
        from datasets import load_from_disk

        yield from load_from_disk(str(self._path)).select(range(self._payload["first"], self._payload["last"]))

    def _document(self, text: str, identity: tuple[str | bytes, ...], url: str, kind: str, date: str = "") -> Document:
        metadata = {
            "url": url,
            "source": self._source,
            "language": "",
            "language_score": 0.0,
            "title": "",
            "date": date,
            "kind": kind,
        }
        return Document(text=text, id=document_id(self._source, *identity), metadata=metadata)

    def _lose(self, damage: Damage) -> None:
        self._recorder.funnel.read(READ, 0)
        self._recorder.fail(READ, damage.where, damage.error, damage.reason)


def _iso(value: Any) -> str:
    """A column's date as ISO 8601; empty when it is none."""
    if isinstance(value, date):  # or a moment
        return value.isoformat()
    return value if isinstance(value, str) and math.isfinite(moment(value)) else ""


def _storable(text: str) -> str:
    """Without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _unwanted(page: Page) -> str | None:
    """Why a page of the archive is none to read, or None."""
    if page.payload is None:
        return "too_large"
    if page.status not in (0, 200):
        return "http_status"
    if not page.url:
        return "no_url"
    if page.extracted:
        return None if page.media_type in ("text/plain", "") else "not_text"
    head = page.payload[:2048].lower()
    looks_like_html = any(sign in head for sign in _HTML_SIGNS)
    if page.media_type not in _HTML and not (page.media_type == "" and looks_like_html):
        return "not_html"
    return None


def read_json_lines(path: Path, opened: IO[bytes] | None = None) -> Iterator[dict[str, Any] | Damage]:
    """The objects of a JSON-lines file, plain or compressed as its name says; `opened` is it, if it is open already.

    Blank lines are none.
    """
    number = 0
    try:
        with opened or path.open("rb") as raw, _decompressed(path, raw) as file:
            for number, line in enumerate(_lines(file), 1):
                if line is not None and not line.strip():
                    continue
                if line is None:
                    yield Damage(where=f"line {number}", error=f"is longer than {MAX_LINE} bytes")
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:  # nested too deep
                    yield Damage(where=f"line {number}", error=str(error))
                    continue
                if isinstance(row, dict):
                    yield row
                else:
                    yield Damage(where=f"line {number}", error=f"holds a {type(row).__name__}, not an object")
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        yield Damage(where=f"after line {number}", error=str(error))


def _lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes | None]:
    """Lines as they are, None for one that is too long; memory does not depend on how long it is."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PASSED)
        yield None


def _decompressed(path: Path, file: IO[bytes]) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if path.suffix == ".zst":
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, closefd=True))
    raw: Any = file
    return io.BufferedReader(raw)  # a remote file's own readline() takes no limit
