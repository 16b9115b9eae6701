"""The document: a text and where it came from, and its Parquet form (zstd), read and written in bounded memory.

Every stage between acquisition and tokenization exchanges this schema. Files are written atomically, and their bytes
depend on the documents alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Folder, atomic_path, fingerprint, transfer
from pipelines.funnel import utf8_size
from pipelines.shared import reference

SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        ("title", pa.string()),
        ("date", pa.string()),
        ("quality", pa.float64()),
    ]
)
ROW_GROUP = 1000
"""Documents held in memory at once when reading or writing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDocument:
    """One text. `id` is 32 hexadecimal digits, `language` an ISO 639 code, "python" or "code"; `title` may be empty.

    `date` is when the text was fetched (ISO 8601), empty where nobody says; `quality` is a classifier's score in
    [0, 1], 0 where there is none.
    """

    text: str
    id: str
    url: str
    source: str
    language: str
    language_score: float
    title: str = ""
    date: str = ""
    quality: float = 0.0

    @property
    def bytes(self) -> int:
        """Size of the text in UTF-8."""
        return utf8_size(self.text)


def document_id(source: str, *parts: str | bytes) -> str:
    """128 bits of sha256 over the source's name and what identifies the document within it, as hexadecimal digits."""
    digest = hashlib.sha256(source.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def write_documents(path: Path, documents: Iterable[TextDocument]) -> int:
    """Replace `path` by a Parquet file of `documents`, atomically; returns how many there were."""
    names = [field.name for field in fields(TextDocument)]
    stream, count = iter(documents), 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        while group := list(itertools.islice(stream, ROW_GROUP)):
            columns = {name: [getattr(document, name) for document in group] for name in names}
            writer.write_table(pa.table(columns, schema=SCHEMA))
            count += len(group)
    return count


def write_tables(path: Path, tables: Iterable[pa.Table]) -> int:
    """`write_documents` of rows that are in tables, of any size and of `SCHEMA`: the bytes of the file are the same."""
    count = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        waiting = SCHEMA.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= ROW_GROUP:
                writer.write_table(waiting.slice(0, ROW_GROUP).combine_chunks())
                waiting = waiting.slice(ROW_GROUP)
            count += table.num_rows
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks())
    return count


def read_documents(path: Path, first: int = 0, count: int | None = None) -> Iterator[TextDocument]:
    """The documents of one file in order, or `count` row groups of it from group `first` on."""
    with pq.ParquetFile(path) as file:
        last = file.num_row_groups if count is None else min(first + count, file.num_row_groups)
        for group in range(first, last):
            for row in file.read_row_group(group, columns=SCHEMA.names).to_pylist():
                yield TextDocument(**row)


def utf8(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a column of texts (large_string), not copied, and where each begins in them [rows + 1]."""
    array = (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )
    _, offsets, data = array.buffers()
    if not len(array) or data is None:
        return np.empty(0, dtype=np.uint8), np.zeros(len(array) + 1, dtype=np.int64)
    starts = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, dtype=np.uint8), starts


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentFile:
    """A Parquet file of an artifact, which need not be on this node."""

    artifact: Artifact
    name: str

    @property
    def reference(self) -> dict[str, str]:
        """For workers; see `pipelines.shared`."""
        return reference(self.artifact, self.name)

    def path(self) -> Path:
        """A local path, fetched if need be."""
        return self.artifact.path(self.name)

    def metadata(self) -> pq.FileMetaData:
        """The Parquet footer; the rest of the file is not read."""
        with self.artifact.location.open(self.name) as file:
            return pq.read_metadata(file)


def document_files(artifact: Artifact) -> list[DocumentFile]:
    """The files of an artifact's `documents/` folder, in the order that defines document order."""
    return [DocumentFile(artifact=artifact, name=name) for name in artifact.names if name.startswith("documents/")]


def row_groups(files: Sequence[DocumentFile], work: Folder, name: str = "row-groups") -> list[list[int]]:
    """The documents in each row group of each of `files`.

    Their footers are read once, and what they say is kept in `work`: a stage of 100,000 files resumes without them.
    """
    kept = f"{name}.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        known = work.read_json(kept)
        if known["sha256"] == fingerprint(known["rows"]):
            rows: list[list[int]] = known["rows"]
            return rows
    rows = transfer(_row_groups, files)
    work.write_json(kept, {"sha256": fingerprint(rows), "rows": rows})
    return rows


def _row_groups(file: DocumentFile) -> list[int]:
    metadata = file.metadata()
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
