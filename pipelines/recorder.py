"""What happens to the documents of one unit on their way through the steps of a datatrove chain.

Filters are given a `Sink` in place of datatrove's exclusion writer: it counts each rejection by its reason and keeps a
sample of the rejected texts. The sample is chosen by document id, so it is the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from pipelines.funnel import Funnel

FAILED = "failed"
"""Metadata key under which a step leaves what kept it from processing a document."""
STEP = "filter_step"
"""Metadata key under which a block of several steps leaves which of them rejects a document."""
_SHOWN_CHARACTERS = 4000


class Recorder:
    """Counts, sampled rejections and damage of one unit. `file` names the unit's input in messages."""

    def __init__(self, steps: Sequence[str], file: str, sample: float) -> None:
        self.funnel = Funnel(steps)
        self.rejected: list[dict[str, Any]] = []
        self.damaged: list[dict[str, str]] = []
        self._file, self._sample = file, sample

    def reject(self, step: str, document: Document, reason: str) -> None:
        """Count `document` as dropped by `step`, and remember it if it is of the sample."""
        self.funnel.drop(step, reason)
        if int(document.id[:8], 16) < self._sample * 2**32:
            is_page = document.metadata.get("kind") == "html"
            row = {key: document.metadata[key] for key in ("url", "source", "language")}
            text = "" if is_page else document.text[:_SHOWN_CHARACTERS]
            self.rejected.append({"id": document.id, **row, "step": step, "reason": reason, "text": text})

    def fail(self, step: str, where: str, error: str, reason: str) -> None:
        """Count one document that `step` could not process, and name it."""
        self.funnel.fail(step, reason)
        self.damaged.append({"file": self._file, "record": where, "error": error})


class Sink:
    """Stands for a datatrove exclusion writer: takes what a block rejects. Its recorder changes with each unit.

    The block is one step, or several in this order.
    """

    def __init__(self, *steps: str) -> None:
        self.steps = steps
        self.recorder: Recorder | None = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, document: Document, rank: int = 0) -> None:
        """Record the rejection of `document` with the reason its filter left."""
        assert self.recorder is not None
        error = document.metadata.pop(FAILED, None)
        step = document.metadata.pop(STEP, self.steps[0])
        reason = document.metadata.pop("filter_reason", None) or step
        if error is None:
            self.recorder.reject(step, document, reason)
        else:
            self.recorder.fail(step, document.metadata["url"] or document.id, error, reason)

    def passed(self, step: str, size: int) -> None:
        """Count a document of `size` bytes that `step` hands on to the next one of the block, if there is one."""
        following = self.steps.index(step) + 1
        if following < len(self.steps):
            assert self.recorder is not None
            self.recorder.funnel.keep(step, size)
            self.recorder.funnel.read(self.steps[following], size)


def run_chain(
    steps: Iterable[tuple[PipelineStep, Sink]], documents: Iterator[Document], recorder: Recorder
) -> Iterator[Document]:
    """Send `documents` through the blocks, whose steps their sinks name, counting before and after each."""
    for step, sink in steps:
        sink.recorder = recorder
        reading = recorder.funnel.reading(sink.steps[0], documents)
        documents = recorder.funnel.kept(sink.steps[-1], step.run(reading))
    return documents
