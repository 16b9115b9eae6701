"""Main-content extraction: quality on public ground truth, identity with datatrove's extractor, and speed.

python benchmarks/extraction.py --pages FOLDER [--html FOLDER] [--json FILE]

FOLDER: see benchmarks/ground_truth.py. `stock` is datatrove's own `Trafilatura`, its memory of earlier pages emptied
before each page; `exact` and `fast` are the methods of `pipelines.extract.Extract`, in its sandbox; `resiliparse` is
what `fast` starts from. Precision, recall and F1 of words are means over pages, apart for the half that `fast` was
trained on and for the one it never saw. Speed is in pages a second of processor time, of all processes, on the HTML
files below --html, or without it on the ground truth; every text of `exact` on either is compared with `stock`'s.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ground_truth import Labelled, agreement, labelled_pages

from pipelines.charset import decode
from pipelines.languages import identify_language
from pipelines.sandbox import Sandbox, SandboxError

MEASURES = ("precision", "recall", "f1")
Method = Callable[[str], str]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True, metavar="FOLDER", help="ground truth")
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="pages for speed and identity")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    load = os.getloadavg()[0]
    labelled = labelled_pages(options.pages)
    methods = {"stock": stock(), "exact": sandboxed("exact"), "fast": sandboxed("fast"), "resiliparse": resiliparse()}
    truth = [page.html for page in labelled]
    texts = {name: run(method, truth)[0] for name, method in methods.items()}
    different = differences(texts)
    pages = truth
    if options.html is not None:
        pages = [decode(file.read_bytes()) for file in sorted(options.html.rglob("*")) if file.is_file()]
    speeds, html_texts = {}, {}
    for name, method in methods.items():
        html_texts[name], seconds = run(method, pages)
        speeds[name] = round(len(pages) / seconds, 1)
    if options.html is not None:
        different += differences(html_texts)
    figures = {
        "machine": {
            "processors": os.cpu_count(),
            "load_before_and_after": [load, os.getloadavg()[0]],
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("datatrove", "trafilatura", "resiliparse", "lxml")},
        },
        "unseen_half": scores(labelled, texts, 1),
        "training_half": scores(labelled, texts, 0),
        "identity": {
            "pages": len(truth) + (len(pages) if options.html is not None else 0),
            "exact_differs_from_stock": different,
        },
        "speed": {
            "pages": len(pages),
            "characters_a_page": round(sum(map(len, pages)) / len(pages)),
            "pages_a_processor_second": speeds,
        },
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


def stock() -> Method:
    """Datatrove's extractor on each page as if it were the first of its process."""
    from datatrove.pipeline.extractors import Trafilatura
    from trafilatura.deduplication import LRU_TEST

    extractor = Trafilatura(favour_precision=True)

    def extract(html: str) -> str:
        LRU_TEST.clear()
        return extractor.extract(html) or ""

    return extract


def sandboxed(method: str) -> Method:
    """One of ours. A page that fails has the reason for its text."""
    sandbox = Sandbox(f"pipelines.extractors:{method}")

    def extract(html: str) -> str:
        try:
            return sandbox(html)[0]
        except SandboxError as error:
            return error.reason

    return extract


def resiliparse() -> Method:
    """Resiliparse's main content as it is."""
    from resiliparse.extract.html2text import extract_plain_text

    return lambda html: extract_plain_text(html, main_content=True, list_bullets=False, alt_texts=False)


def run(method: Method, pages: Sequence[str]) -> tuple[list[str], float]:
    """Texts of pages, and the processor time it took."""
    before = processor_seconds()
    texts = [method(page) for page in pages]
    return texts, processor_seconds() - before


def processor_seconds() -> float:
    """Processor time of this process and of those it has started and not yet waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return total


def differences(texts: dict[str, list[str]]) -> int:
    """Pages of which `exact` and `stock` give different texts."""
    return sum(a != b for a, b in zip(texts["stock"], texts["exact"], strict=True))


def scores(pages: Sequence[Labelled], texts: dict[str, list[str]], half: int) -> dict[str, Any]:
    """Of all pages, by data set, and by language: pages and the measures of each method.

    The language of a page is what the data set says, or else identified from its main text.
    """
    groups: dict[str, list[int]] = {}
    for number, page in enumerate(pages):
        if page.half == half:
            language = page.language or identify_language(page.truth)[0]
            for group in ("all", f"data set {page.dataset}", f"language {language}"):
                groups.setdefault(group, []).append(number)
    table = {}
    for group, members in sorted(groups.items()):
        row: dict[str, Any] = {"pages": len(members)}
        for method, found in texts.items():
            means = np.mean([agreement(found[i], pages[i].truth) for i in members], axis=0)
            row[method] = {name: round(float(mean), 4) for name, mean in zip(MEASURES, means, strict=True)}
        table[group] = row
    return table


if __name__ == "__main__":
    main()
