"""Real pages to measure on: WARCs of English HTML documentation from Debian packages, made once and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from illada.artifacts import NoProgress
from pipelines.sources.debian import choose_pages, fetch_packages
from pipelines.warc import WarcWriter

PACKAGES = (
    "debian-handbook", "apache2-doc", "libreoffice-help-en-us", "debian-reference-en", "python3.11-doc",
    "python-django-doc", "postgresql-doc-15", "git-doc", "anarchism", "developers-reference", "debian-policy",
    "aptitude-doc-en", "debian-faq", "harden-doc", "live-manual-html", "installation-guide-amd64", "rust-doc",
    "cppreference-doc-en-html", "openjdk-17-doc", "maint-guide", "gnupg-doc", "erlang-doc-html", "gcc-12-doc",
    "octave-doc", "r-doc-html", "glibc-doc-reference", "emacs-common-non-dfsg", "python-sqlalchemy-doc",
)  # fmt: skip
"""Taken where they are known; the figures say how many pages came of them."""
PAGES_PER_FILE = 1000


def crawl(folder: Path, pages: int) -> list[Path]:
    """WARC files of about `pages` pages in all, evenly over the packages; made anew unless `folder` has them.

    Raises:
        SourceUnavailable: this is no Debian-family system, or packages cannot be had.
    """
    listing = folder / f"pages-{pages}.json"
    if listing.exists():
        return [folder / name for name in json.loads(listing.read_text())]
    folder.mkdir(parents=True, exist_ok=True)
    progress = NoProgress()
    packages, _ = fetch_packages(PACKAGES, folder, progress)
    chosen = sorted(
        ((page.url, page.date, page.read()) for page in choose_pages(packages, pages, progress)),
        key=lambda page: _mixing(page[0]),
    )
    names = []
    for first in range(0, len(chosen), PAGES_PER_FILE):
        names.append(f"pages-{pages}-{first // PAGES_PER_FILE:03d}.warc.gz")
        with WarcWriter(folder / names[-1], "documentation pages") as writer:
            for url, date, payload in chosen[first : first + PAGES_PER_FILE]:
                writer.write(url, payload, date)
    listing.write_text(json.dumps(names))
    return [folder / name for name in names]


def _mixing(url: str) -> bytes:
    """Orders pages so that every file has some of each package."""
    return hashlib.sha256(url.encode(errors="surrogateescape")).digest()
