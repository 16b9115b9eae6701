"""Extraction of main text as a datatrove step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from pipelines.recorder import FAILED
from pipelines.sandbox import Sandbox, SandboxError


class Writer(Protocol):
    """Takes rejected documents, as datatrove's exclusion writers do."""

    def write(self, document: Document, rank: int = 0) -> None:
        """Take one document."""


class Extract(PipelineStep):
    """Replaces the HTML of a page by its main text. A page without any is dropped; one that breaks the parser fails.

    `exact` gives the text that datatrove's `Trafilatura` gives of the page if its process has seen no other, `fast`
    that of `pipelines.fast.blocks`. Both run in a sandbox: a page may take `page_seconds` of processor time and
    `page_memory` bytes; what takes more, or crashes the parser, is one failed page (`timeout`, `memory`, `crash`).
    Documents that are marked as something else than a page (`kind` in their metadata) pass. `rejected` is given the
    pages without text and those that failed; these have the error in their metadata, under `failed`.
    """

    type = "🛢 - EXTRAC"
    name = "main text"

    def __init__(
        self,
        method: Literal["exact", "fast"] = "fast",
        rejected: Writer | None = None,
        *,
        page_seconds: float = 30.0,
        page_memory: int = 2**29,
    ) -> None:
        super().__init__()
        self._rejected = rejected
        self._new_sandbox = functools.partial(Sandbox, f"pipelines.extractors:{method}", page_seconds, page_memory)
        self._sandbox: Sandbox | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sandbox": None}  # datatrove sends steps to other processes

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pages as text; documents that are text already as they are."""
        for document in data:
            self.stat_update(StatHints.total)
            if document.metadata.get("kind", "html") == "html":
                with self.track_time():
                    has_text = self._extract(document)
                if not has_text:
                    self.stat_update(StatHints.dropped, f"dropped_{document.metadata['filter_reason']}")
                    if self._rejected is not None:
                        self._rejected.write(document, rank)
                    continue
                document.metadata["kind"] = "text"
            self.stat_update(StatHints.forwarded)
            yield document

    def _extract(self, document: Document) -> bool:
        """Whether there is text in the page now; if not, why."""
        if self._sandbox is None:
            self._sandbox = self._new_sandbox()
        try:
            document.text, document.metadata["title"] = self._sandbox(document.text)
        except SandboxError as error:  # counted and named: one page must not stop a crawl
            document.metadata[FAILED] = str(error)
            document.metadata["filter_reason"] = error.reason
            return False
        if document.text.strip():
            return True
        document.metadata["filter_reason"] = "no_text"
        return False
