"""Public ground truth of main-content extraction, read from clones of the repositories that publish it.

A folder is expected with any of these clones, under the names they have on GitHub:

- mozilla/readability: test pages with the article that readability should give;
- scrapinghub/article-extraction-benchmark: news, with the article's text;
- rundimeco/waddle: DAnIEL, news in Chinese, English, Greek, Polish and Russian, with paragraphs;
- j-szulc/html-cleaning-dataset-merged: CleanEval (development and final), CleanPortalEval and Dragnet;
- leogao2/htmltotext-benchmark: forums, news and blogs in Chinese, Croatian, English and German.

Pages of one site are in one half, by a hash of its name: a method tuned on one half is scored on sites it never saw.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.charset import decode

_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|\w+")  # Chinese and Japanese: a character


@dataclass(frozen=True, slots=True)
class Labelled:
    """A page and its main text. `language` is a code; empty where the data set does not tell."""

    dataset: str
    language: str
    site: str
    html: str
    truth: str

    @property
    def half(self) -> int:
        """0, to tune on, or 1, to be scored on."""
        return zlib.crc32(self.site.encode()) & 1


def words(text: str) -> list[str]:
    """What is compared: runs of letters and digits in lower case."""
    return _WORD.findall(text.lower())


def agreement(text: str, truth: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the words of `text` as multisets, as usual for this task."""
    found, wanted = Counter(words(text)), Counter(words(truth))
    common = (found & wanted).total()
    precision = common / found.total() if found else float(not wanted)
    recall = common / wanted.total() if wanted else float(not found)
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def labelled_pages(folder: Path) -> list[Labelled]:
    """All pages of the clones in `folder`.

    Raises:
        ValueError: there is none of them.
    """
    readers: dict[str, Callable[[Path], Iterator[Labelled]]] = {
        "readability": _readability,
        "article-extraction-benchmark": _scrapinghub,
        "waddle": _daniel,
        "html-cleaning-dataset-merged": _merged,
        "htmltotext-benchmark": _html_to_text,
    }
    pages = [page for name, read in readers.items() if (folder / name).is_dir() for page in read(folder / name)]
    if not pages:
        raise ValueError(f"{folder}: has none of {', '.join(readers)}; clone one of these repositories into it")
    return pages


def _readability(clone: Path) -> Iterator[Labelled]:
    for page in sorted((clone / "test" / "test-pages").iterdir()):
        truth = _visible(_read(page / "expected.html"))
        yield Labelled("readability", "", page.name, _read(page / "source.html"), truth)


def _scrapinghub(clone: Path) -> Iterator[Labelled]:
    for name, page in json.loads((clone / "ground-truth.json").read_text()).items():
        html = decode(gzip.decompress((clone / "html" / f"{name}.html.gz").read_bytes()))
        yield Labelled("scrapinghub", "", name, html, page["articleBody"])


def _daniel(clone: Path) -> Iterator[Labelled]:
    corpus = clone / "corpora" / "Corpus_daniel_v2.1"
    codes = {"Chinese": "zh", "English": "en", "Greek": "el", "Polish": "pl", "Russian": "ru"}
    languages = json.loads((corpus / "doc_lg.json").read_text())
    for page in sorted((corpus / "html").iterdir()):
        truth = corpus / "reference" / page.name
        if truth.exists():
            site = page.name.split("_")[1]
            yield Labelled("daniel", codes[languages[page.name]], site, _read(page), _visible(_read(truth)))


def _merged(clone: Path) -> Iterator[Labelled]:
    for folder, dataset in {
        "cleaneval-dev": "cleaneval-development",
        "cleaneval-final": "cleaneval-final",
        "CleanPortalEval-master": "cleanportaleval",
        "dragnet_data": "dragnet",
    }.items():
        for file in sorted((clone / folder / "GoldStandard").glob("*.txt")):
            page = clone / folder / "input" / f"{file.stem}.html"
            truth = _read(file)
            if dataset != "dragnet":  # marked up by hand: address, headings, paragraphs, list items
                truth = re.sub(r"</?[hpl]>", " ", re.sub(r"\A\s*URL:.*", "", truth), flags=re.IGNORECASE)
            if page.is_file():
                site = file.stem.split("_")[0] if dataset == "cleanportaleval" else file.stem
                yield Labelled(dataset, "", site, _read(page), truth)


def _html_to_text(clone: Path) -> Iterator[Labelled]:
    for page in sorted((clone / "benchmarkdata").glob("*/html/*.html")):
        code = page.parts[-3]
        truth = _read(page.parents[1] / "text" / f"{page.stem}.txt")
        yield Labelled("htmltotext", code, page.stem, _read(page), truth)


def _read(file: Path) -> str:
    return decode(file.read_bytes())


def _visible(html: str) -> str:
    """All text of a page that is nothing but main content."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, list_bullets=False, alt_texts=False, noscript=True)
