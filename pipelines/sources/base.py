"""What the kinds of sources share: what they hand to `acquire`, how they archive pages, and how they say no."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from illada.artifacts import Progress
from pipelines.warc import WarcWriter

PAGES_PER_ARCHIVE = 250


class SourceUnavailable(Exception):
    """This way of getting at the source does not work here, and why; the next one is tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WebPage:
    """A page to archive. `read` gives its bytes, so that pages are held in memory one at a time."""

    url: str
    date: datetime
    read: Callable[[], bytes]
    content_type: str = "text/html"


def archive_pages(
    pages: Iterable[WebPage], folder: Path, description: str, made_from: list[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """Write `pages` in order as `warc/00000.warc.gz` ... under `folder`; returns the inventory's file rows."""
    (folder / "warc").mkdir()
    files: list[dict[str, Any]] = []
    stream, done = iter(pages), 0
    for number in itertools.count():
        first = next(stream, None)
        if first is None:
            return files
        name, before = f"warc/{number:05d}.warc.gz", done
        with WarcWriter(folder / name, description) as writer:
            # One page is drawn and written at a time: what it is read from may be gone once the stream has ended.
            for page in itertools.chain((first,), itertools.islice(stream, PAGES_PER_ARCHIVE - 1)):
                writer.write(page.url, page.read(), page.date, page.content_type)
                done += 1
                progress.update(done)
        files.append({"path": name, "kind": "warc", "documents": done - before, "made_from": made_from})
    raise AssertionError("the count has no end")


def by_hash(names: Iterable[str]) -> list[str]:
    """`names` in an order that is arbitrary but the same everywhere: that of their sha256."""
    return sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
