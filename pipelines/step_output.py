"""What a unit of a stage with one step leaves: the documents it kept, a sample of the others, its counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document

from pipelines.documents import TextDocument, write_documents
from pipelines.funnel import Tally
from pipelines.recorder import Recorder
from pipelines.rejected import write_rejected


def to_datatrove(text: TextDocument) -> Document:
    """`text` as datatrove's filters and `Recorder.reject` take it."""
    metadata = {"url": text.url, "source": text.source, "language": text.language}
    return Document(text=text.text, id=text.id, metadata=metadata)


def write_step(output: Path, step: str, kept: Iterable[TextDocument], recorder: Recorder) -> dict[str, Any]:
    """Write `documents.parquet` and `rejected.parquet` into `output`; returns counts, funnel, languages and sources."""
    languages, sources = Tally(), Tally()

    def counted() -> Iterator[TextDocument]:
        for text in recorder.funnel.kept(step, kept):
            languages.add(text.language, text.bytes)
            sources.add(text.source, text.bytes)
            yield text

    count = write_documents(output / "documents.parquet", counted())
    write_rejected(output / "rejected.parquet", recorder.rejected)
    return {
        "documents": count,
        "rejected": len(recorder.rejected),
        "funnel": recorder.funnel.rows(),
        "languages": languages.rows(),
        "sources": sources.rows(),
    }
