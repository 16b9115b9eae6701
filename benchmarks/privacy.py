"""What the search for personal data and secrets costs, beside datatrove's formatter for e-mail and IP addresses.

python benchmarks/privacy.py FILE... [--column text]

Files are documents of a store, or any JSON lines or Parquet with a text column. Processor time of one process, over all
texts, each kind by itself and all together; and what was found. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datatrove.pipeline.formatters import PIIFormatter

from pipelines.privacy.page import Page
from pipelines.privacy.redact import FINDERS, redact
from pipelines.tables import read_rows


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--column", default="text")
    options = parser.parse_args()
    texts = [text for path in options.files for _, (text,) in read_rows(path, (options.column,))]
    found: Counter[str] = Counter()

    def everything(text: str) -> None:
        found.update(redact(text, FINDERS)[1])

    whole = _milliseconds(everything, texts)
    kinds: dict[str, Callable[[str], Any]] = {
        kind: lambda text, finder=finder: list(finder(Page.of(text))) for kind, finder in FINDERS.items()
    }
    print(
        json.dumps(
            {
                "python": platform.python_version(),
                "pages": len(texts),
                "characters_per_page": sum(map(len, texts)) / len(texts),
                "milliseconds_per_page": whole,
                "by_kind": {kind: _milliseconds(search, texts) for kind, search in kinds.items()},
                "datatrove_emails_and_ips": _milliseconds(PIIFormatter().format, texts),
                "found": dict(found),
            },
            indent=1,
        )
    )


def _milliseconds(call: Callable[[str], Any], texts: Iterable[str]) -> float:
    start, count = time.process_time(), 0
    for text in texts:
        call(text)
        count += 1
    return 1000 * (time.process_time() - start) / count


if __name__ == "__main__":
    main()
