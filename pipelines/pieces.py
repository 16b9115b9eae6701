"""Pieces: documents that a unit of tokenization wrote, by group, in a file whose parts can be read and checked alone.

The file is one Arrow IPC stream after another, one a piece. Whoever joins the pieces of a group reads those alone, by
their place in the file, whatever else the unit wrote.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from illada.artifacts import DamagedWork, Folder, atomic_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Documents of one source and language in a unit's file; `at` and `size` (bytes) are its place there."""

    source: str
    language: str
    documents: int
    tokens: int
    at: int
    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def write_pieces(path: Path, groups: Iterable[tuple[str, str, pa.RecordBatch]]) -> list[Piece]:
    """Write (source, language, documents in the schema of shards) into a file, atomically; a piece for each."""
    pieces: list[Piece] = []
    at = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for source, language, batch in groups:
            stream = io.BytesIO()
            with pa.ipc.new_stream(stream, batch.schema) as writer:
                writer.write_batch(batch)
            data = stream.getbuffer()
            file.write(data)
            offsets = batch.column("input_ids").offsets
            piece = Piece(
                source=source,
                language=language,
                documents=batch.num_rows,
                tokens=offsets[-1].as_py() - offsets[0].as_py(),
                at=at,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
            pieces.append(piece)
            at += piece.size
    return pieces


def read_piece(folder: Folder, name: str, at: int, size: int, sha256: str) -> pa.RecordBatch:
    """The documents of a piece in the file `name` of a unit's folder.

    Raises:
        DamagedWork: it is not as it was written; the file has been removed.
    """
    try:
        with folder.open(name) as file:
            file.seek(at)
            data = file.read(size)
    except FileNotFoundError:
        raise DamagedWork.removed(folder, name) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedWork.removed(folder, name)
    with pa.ipc.open_stream(data) as stream:
        batch: pa.RecordBatch = stream.read_next_batch()
    return batch
