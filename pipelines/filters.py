"""The filter chain of FineWeb (arXiv 2406.17557) made of datatrove's own classes, one instance for every language.

URL lists, main-text extraction, language identification, Gopher repetition and quality (arXiv 2112.11446, table A1 and
appendix A.1.1), C4 (arXiv 1910.10683, without the rule on terminal punctuation, as FineWeb does), FineWeb's line
statistics. Sources of code pass through untouched.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

from illada.config import Curate
from pipelines.extract import Extract
from pipelines.languages import function_words, identify_language
from pipelines.recorder import FAILED, Sink
from pipelines.repetition import FastRepetitionFilter
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
    return [name for name, on in wanted.items() if on]


def build_chain(config: Curate, block_lists: Sequence[Path]) -> list[tuple[PipelineStep, Sink]]:
    """The steps of `step_names`, each with the sink its rejections go to."""

    def by_language(make: Callable[[str], BaseFilter]) -> Callable[[Sink], BaseFilter]:
        return lambda sink: ByLanguage(make, sink)

    makers: dict[str, Callable[[Sink], PipelineStep]] = {
        "url": lambda sink: ByUrl(OfflineURLFilter(block_lists), sink),
        "extract": lambda sink: Extract(config.extraction, sink),
        "language": lambda sink: LanguageId(
            config.languages, config.language_threshold, config.language_characters, sink
        ),
        "gopher-repetition": by_language(lambda code: FastRepetitionFilter(word_tokenizer(code))),
        "gopher-quality": by_language(
            lambda code: GopherQualityFilter(
                min_doc_words=config.min_words,
                max_doc_words=config.max_words,
                stop_words=function_words(code),
                language=word_tokenizer(code),
            )
        ),
        "c4": by_language(lambda code: C4QualityFilter(filter_no_terminal_punct=False, language=word_tokenizer(code))),
        "fineweb": by_language(lambda code: FineWebQualityFilter(language=word_tokenizer(code))),
    }
    sinks = [Sink(name) for name in step_names(config)]
    return [(makers[sink.step](sink), sink) for sink in sinks]


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
    """Applies a filter to documents that have a URL."""

    name = "url"

    def __init__(self, stock: BaseFilter, sink: Sink) -> None:
        super().__init__(sink)
        self._stock = stock

    def rule(self, document: Document) -> Callable[[Document], Verdict]:
        """The stock filter."""
        return self._stock.filter if document.metadata["url"] else lambda _: True


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


class ByLanguage(_Prose):
    """Applies the stock filter made for the document's language."""

    name = "by language"

    def __init__(self, make: Callable[[str], BaseFilter], sink: Sink) -> None:
        super().__init__(sink)
        self._make = functools.cache(make)

    def rule(self, document: Document) -> Callable[[Document], Verdict]:
        """The stock filter of the document's language."""
        return self._make(document.metadata["language"]).filter
