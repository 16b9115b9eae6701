"""The filter chain of FineWeb (arXiv 2406.17557) as datatrove's own classes decide, one instance for every language.

URL lists, main-text extraction, language identification, Gopher repetition and quality (arXiv 2112.11446, table A1 and
appendix A.1.1), C4 (arXiv 1910.10683, without the rule on terminal punctuation, as FineWeb does), FineWeb's line
statistics. Sources of code pass through untouched.
"""

from __future__ import annotations

import functools
import gc
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

from illada.config import Curate
from pipelines.extract import Extract
from pipelines.funnel import utf8_size
from pipelines.fused import STEPS, FusedQualityFilter, Rule
from pipelines.languages import function_words, identify_language
from pipelines.recorder import FAILED, STEP, Sink
from pipelines.urls import OfflineURLFilter
from pipelines.words import word_tokenizer

Verdict = bool | tuple[bool, str]


def step_names(config: Curate) -> list[str]:
    """The steps behind the reader that `config` asks for, in order."""
    wanted = {
        "url": config.url_filter,
        "extract": True,
        "language": True,
        "gopher-repetition": config.gopher_repetition,
        "gopher-quality": config.gopher_quality,
        "c4": config.c4,
        "fineweb": config.fineweb,
    }
    return [name for name, on in wanted.items() if on is not None and on is not False]


def build_chain(config: Curate, block_lists: Sequence[Path]) -> list[tuple[PipelineStep, Sink]]:
    """The steps of `step_names`, each with the sink its rejections go to."""

    quality = [step for step in step_names(config) if step in STEPS.values()]

    def rules(language: str) -> Mapping[str, Rule]:
        made = FusedQualityFilter(stock_filters(config, language), word_tokenizer(language)).rules
        gc.freeze()  # what is loaded is not looked through again and again
        return made

    makers: dict[str, Callable[[Sink], PipelineStep]] = {
        "url": lambda sink: ByUrl(OfflineURLFilter(block_lists), sink),
        "extract": lambda sink: Extract(config.extraction, sink),
        "language": lambda sink: LanguageId(
            config.languages, config.language_threshold, config.language_characters, sink
        ),
    }
    sinks = [Sink(name) for name in step_names(config) if name in makers]
    chain = [(makers[sink.steps[0]](sink), sink) for sink in sinks]
    if quality:
        sink = Sink(*quality)
        chain.append((Quality(rules, sink), sink))
    return chain


def stock_filters(config: Curate, language: str) -> list[BaseFilter]:
    """datatrove's quality filters with the thresholds of `config`, in the order of the steps."""
    filters: list[BaseFilter] = []
    if config.gopher_repetition is not None:
        filters.append(GopherRepetitionFilter(**dict(config.gopher_repetition)))
    if config.gopher_quality is not None:
        filters.append(GopherQualityFilter(**dict(config.gopher_quality), stop_words=function_words(language)))
    if config.c4 is not None:
        longest = config.c4.max_word_length
        filters.append(C4QualityFilter(**{**dict(config.c4), "max_word_length": -1 if longest is None else longest}))
    if config.fineweb is not None:
        filters.append(FineWebQualityFilter(**dict(config.fineweb)))
    return filters


class _Prose(BaseFilter):
    """A filter for natural language: code passes. What breaks on a document fails that document only."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(exclusion_writer=sink)

    @abstractmethod
    def rule(self, document: Document) -> Callable[[Document], Verdict]:
        """What decides about `document`."""

    def filter(self, doc: Document) -> Verdict:
        """As datatrove asks; the sink tells documents that failed from those that were dropped."""
        if doc.metadata["kind"] == "code":
            return True
        rule = self.rule(doc)
        try:
            return rule(doc)
        except Exception as error:  # counted and named: one document must not stop a crawl
            doc.metadata[FAILED] = f"{type(error).__name__}: {error}"
            return False, "error"


class ByUrl(_Prose):
    """Applies a filter to documents that have an address on the web."""

    name = "url"

    def __init__(self, stock: BaseFilter, sink: Sink) -> None:
        super().__init__(sink)
        self._stock = stock

    def rule(self, document: Document) -> Callable[[Document], Verdict]:
        """The stock filter."""
        url = document.metadata["url"]
        return self._stock.filter if url and not url.startswith("file:") else lambda _: True


class LanguageId(_Prose):
    """Keeps documents that are probably in one of the languages, and notes which."""

    name = "language"

    def __init__(self, languages: tuple[str, ...], threshold: float, characters: int | None, sink: Sink) -> None:
        super().__init__(sink)
        self._languages, self._threshold, self._characters = frozenset(languages), threshold, characters

    def rule(self, document: Document) -> Callable[[Document], Verdict]:
        """Language first, then how sure that is."""
        return self._identify

    def _identify(self, document: Document) -> Verdict:
        language, score = identify_language(document.text, self._characters)
        document.metadata.update(language=language, language_score=score)
        if language not in self._languages:
            return False, "other_language"
        return score >= self._threshold or (False, "uncertain_language")


class Quality(PipelineStep):
    """The rules on natural language made for the document's language, one after the other; code passes."""

    type = "🔻 - FILTER"
    name = "quality by language"

    def __init__(self, rules: Callable[[str], Mapping[str, Rule]], sink: Sink) -> None:
        super().__init__()
        self._rules, self._sink = functools.cache(rules), sink

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """What all rules keep; the sink counts between them."""
        for document in data:
            if self._keeps(document):
                yield document

    def _keeps(self, document: Document) -> bool:
        text, size = document.text, utf8_size(document.text)
        if document.metadata["kind"] == "code":
            for step in self._sink.steps:
                self._sink.passed(step, size)
            return True
        for step, rule in self._rules(document.metadata["language"]).items():
            try:
                reason = rule(document)
            except Exception as error:  # counted and named: one document must not stop a crawl
                document.metadata[FAILED] = f"{type(error).__name__}: {error}"
                reason = "error"
            if reason is not None:
                document.metadata.update({"filter_reason": reason, STEP: step})
                self._sink.write(document)
                return False
            if document.text is not text:
                text, size = document.text, utf8_size(document.text)
            self._sink.passed(step, size)
        return True
