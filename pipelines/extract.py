"""Extraction of main text as a datatrove step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from pipelines.extraction import extractor
from pipelines.recorder import FAILED


class Writer(Protocol):
    """Takes rejected documents, as datatrove's exclusion writers do."""

    def write(self, document: Document, rank: int = 0) -> None:
        """Take one document."""


class Extract(PipelineStep):
    """Replaces the HTML of a page by its main text. A page without any is dropped; one that breaks the parser fails.

    `exact` gives the text of trafilatura as datatrove calls it, `fast` that of resiliparse. Documents that are marked
    as something else than a page (`kind` in their metadata) pass. `rejected` is given the pages without text, and those
    that failed with the error in their metadata.
    """

    type = "🛢 - EXTRAC"
    name = "main text"

    def __init__(self, method: Literal["exact", "fast"] = "fast", rejected: Writer | None = None) -> None:
        super().__init__()
        self._extract, self._rejected = extractor(method), rejected

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pages as text; documents that are text already as they are."""
        for document in data:
            if document.metadata.get("kind", "html") == "html":
                try:
                    document.text, document.metadata["title"] = self._extract(document.text)
                except Exception as error:  # counted and named: one page must not stop a crawl
                    document.metadata[FAILED] = f"{type(error).__name__}: {error}"
                if FAILED in document.metadata or not document.text.strip():
                    document.metadata["filter_reason"] = "no_text"
                    if self._rejected is not None:
                        self._rejected.write(document, rank)
                    continue
                document.metadata["kind"] = "text"
            yield document
