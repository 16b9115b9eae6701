"""The datatrove step: personal data and secrets in documents are replaced, or the documents dropped, kind by kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from illada.config import Privacy
from pipelines.privacy.redact import FINDERS, redact
from pipelines.recorder import FAILED

_NOT_IN_CODE = ("ips", "phones")  # four numbers are a version there, and long ones are constants


class PrivacyFilter(BaseFilter):
    """Looks into `text` and the metadata's `title`; documents whose metadata says `kind: code` are searched for less.

    What breaks on a document fails that document, which is dropped. `found` has, since `run` was last called, the
    documents and occurrences of each kind. What is dropped is given to the exclusion writer with everything replaced.
    """

    name = "privacy"

    def __init__(self, config: Privacy, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        actions = {kind: getattr(config, kind) for kind in FINDERS}
        self._kinds = [kind for kind, action in actions.items() if action != "keep"]
        self._code_kinds = [kind for kind in self._kinds if kind not in _NOT_IN_CODE]
        self._fatal = [kind for kind, action in actions.items() if action == "drop"]
        self.found: dict[str, dict[str, int]] = {}

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """As datatrove asks; counts anew."""
        self.found = {kind: {"documents": 0, "occurrences": 0} for kind in self._kinds}
        yield from super().run(data, rank, world_size)

    def clean(self, text: str) -> str:
        """A text of any document with all finds replaced, for people to read; empty if that fails."""
        try:
            return redact(text, self._kinds)[0]
        except Exception:
            return ""

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Replace what is found; drop the document for the first kind that is not to be in any."""
        try:
            return self._filter(doc)
        except Exception as error:  # counted and named: one document must not stop a crawl
            doc.metadata[FAILED], doc.text = f"{type(error).__name__}: {error}", ""
            return False, "error"

    def _filter(self, doc: Document) -> bool | tuple[bool, str]:
        kinds = self._code_kinds if doc.metadata.get("kind") == "code" else self._kinds
        doc.text, found = redact(doc.text, kinds)
        if doc.metadata.get("title"):
            doc.metadata["title"], more = redact(doc.metadata["title"], kinds)
            found += more
        for kind, count in found.items():
            self.found[kind]["documents"] += 1
            self.found[kind]["occurrences"] += count
            self.stat_update(kind, value=count)
        fatal = next((kind for kind in self._fatal if found[kind]), None)
        return (False, f"has_{fatal}") if fatal else True
