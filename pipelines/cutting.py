"""Benchmark text is cut out of documents, sentence by sentence, or the documents are dropped: a datatrove filter.

After GPT-3 (arXiv 2005.14165, appendix C), which removed 200 characters around each match and dropped documents that
came apart into more than ten pieces. Here a cut reaches to the ends of the sentences or lines that a match touches, and
the rest stays one document. A document is searched again after each cut, so that nothing which grew together at a seam
is left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from illada.config import Decontaminate
from pipelines.ngrams import NgramIndex

_BOUNDARY = re.compile(r"""[.!?]["'”’)\]]*(?:[^\S\n]+|(?=\n)|\Z)|[。！？]|\n""")
_REACH = 1000  # characters from a match, within which the end of a sentence or line is looked for
_CONTEXT = 80  # characters shown on both sides of a cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A span that was removed, what stood around it, and an n-gram that was found in it."""

    gram: int
    before: str
    removed: str
    after: str


class BenchmarkFilter(BaseFilter):
    """Cuts what is in `index` out of documents (`action: cut`), or drops documents that hold any of it (`drop`).

    Reasons: `benchmark` (dropped unseen), `too_many_cuts`, `too_much_cut`.
    """

    name = "🧹 Benchmarks"

    def __init__(self, index: NgramIndex, config: Decontaminate) -> None:
        super().__init__()
        self._index, self._config = index, config
        self.grams: list[int] = []
        """N-grams found in the last document."""
        self.cuts: list[Cut] = []
        """What was cut out of it."""

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Cut `document`; False and the reason when it is to be dropped."""
        self.grams, self.cuts = [], []
        text = document.text
        while found := self._index.spans(text):
            self.grams += [gram for _, _, gram in found]
            if self._config.action == "drop":
                return False, "benchmark"
            text = self._without(text, _merged(text, found))
            if len(self.cuts) > self._config.max_cuts:
                return False, "too_many_cuts"
            if not text.strip() or len(document.text) - len(text) > self._config.max_cut_share * len(document.text):
                return False, "too_much_cut"
        document.text = text
        return True

    def _without(self, text: str, spans: list[tuple[int, int, int]]) -> str:
        kept, at = [], 0
        for start, end, gram in spans:
            kept.append(text[at:start])
            before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
            self.cuts.append(Cut(gram=gram, before=before, removed=text[start:end], after=after))
            at = end
        return "".join([*kept, text[at:]])


def _merged(text: str, found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(start, end, n-gram) of what to cut: the matches, each to the ends of its sentences, where they touch as one."""
    spans: list[tuple[int, int, int]] = []
    for start, end, gram in found:
        if spans and start <= spans[-1][1]:
            first, last, one = spans[-1]
            spans[-1] = (first, last if end <= last else _sentence_end(text, end), one)
        else:
            spans.append((_sentence_start(text, start), _sentence_end(text, end), gram))
    return spans


def _sentence_start(text: str, at: int) -> int:
    begin = max(0, at - _REACH)
    ends = [match.end() for match in _BOUNDARY.finditer(text, begin, at)]
    return ends[-1] if ends else at if begin else 0


def _sentence_end(text: str, at: int) -> int:
    match = _BOUNDARY.search(text, at, at + _REACH)
    return match.end() if match else at if at + _REACH < len(text) else len(text)
