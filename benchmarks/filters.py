"""The four quality filters of datatrove one after the other against the fused one, on the pages of WARC files.

python benchmarks/filters.py FILE.warc.gz ...

Main text by resiliparse, pages of the known languages only. Both decide about each page, in turn; verdict, reason and
text must be equal, or the command fails. Prints JSON: pages per second of processor time, start-up included.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.word_tokenizers import load_word_tokenizer
from resiliparse.extract.html2text import extract_plain_text

from pipelines.charset import decode
from pipelines.fused import FusedQualityFilter
from pipelines.languages import function_words, identify_language
from pipelines.warc import Page, read_warc
from pipelines.words import word_tokenizer


def main() -> None:
    """Print the figures. Raises SystemExit where the two disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    seconds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    characters = 0
    for url, text, language in _texts(parser.parse_args().files):
        verdicts = {}
        for name, make in (("stock", _stock), ("fused", _fused)):
            document = Document(text=text, id="0")
            started = time.process_time()
            verdicts[name] = _decide(make(language), document), document.text
            seconds[name] += time.process_time() - started
        if verdicts["stock"] != verdicts["fused"]:
            raise SystemExit(f"{url}: stock {verdicts['stock'][0]}, fused {verdicts['fused'][0]}")
        reasons[verdicts["stock"][0]] += 1
        characters += len(text)
    pages = reasons.total()
    figures = {
        "pages": pages,
        "characters": characters,
        "agreeing": pages,
        "pages_per_cpu_second": {name: round(pages / taken, 1) for name, taken in seconds.items()},
        "reasons": dict(reasons.most_common()),
        "datatrove": metadata.version("datatrove"),
        "python": platform.python_version(),
    }
    print(json.dumps(figures, indent=1))


def _texts(files: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
    for file in files:
        for page in read_warc(file):
            if isinstance(page, Page) and page.payload:
                text = extract_plain_text(
                    decode(page.payload, page.charset), main_content=True, list_bullets=False, alt_texts=False
                )
                language, _ = identify_language(text)
                try:
                    function_words(language)
                except KeyError:
                    continue
                yield page.url, text, language


def _filters(language: str) -> list[BaseFilter]:
    words = load_word_tokenizer(language)
    return [
        GopherRepetitionFilter(language=words),
        GopherQualityFilter(language=words, stop_words=function_words(language)),
        C4QualityFilter(language=words, filter_no_terminal_punct=False),
        FineWebQualityFilter(language=words),
    ]


@functools.cache
def _stock(language: str) -> list[BaseFilter]:
    return _filters(language)


@functools.cache
def _fused(language: str) -> list[BaseFilter]:
    return [FusedQualityFilter(_filters(language), word_tokenizer(language))]


def _decide(filters: Sequence[BaseFilter], document: Document) -> str:
    for judge in filters:
        verdict = judge.filter(document)
        if verdict is not True:
            return str(verdict[1])
    return "kept"


if __name__ == "__main__":
    main()
