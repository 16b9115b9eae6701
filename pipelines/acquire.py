"""Stage `acquire-<source>`: get hold of one source, and write down what it consists of (`inventory.json`).

Web documentation comes from the first of these that works: packages of a Debian-family system, an archive fetched over
HTTPS, pages Python renders itself. All three are archived alike, as gzipped WARC. The user's own files are listed where
they are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from illada.artifacts import Attempt, NoProgress, Progress, write_json
from illada.config import ConfigError, DataConfig, PlainText, PythonCode, Repositories, Source, TextFiles, WebDocs
from pipelines.inputs import checksum
from pipelines.languages import check_languages
from pipelines.sources import crawl, debian, pydoc_pages
from pipelines.sources.base import SourceUnavailable, WebPage, archive_pages
from pipelines.sources.environment import collect_sources
from pipelines.sources.files import check_files, list_files
from pipelines.sources.trees import find_tree, list_tree, tree_identity

ACQUIRE_VERSION = 3

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def check_sources(data: DataConfig) -> None:
    """Raise ConfigError for whatever can be known to be wrong with the sources and languages before work starts."""
    check_languages(data.curate.languages)
    for source in data.sources:
        if isinstance(source, WebDocs):
            wrong = [name for name in source.packages if not _PACKAGE.fullmatch(name)]
            if wrong:
                raise ConfigError(f"source {source.name!r}: not a package name: {', '.join(wrong)}")
            if source.fallback_warc is not None and not source.fallback_warc.startswith("https://"):
                raise ConfigError(f"source {source.name!r}: fallback_warc must be an https:// address")
        elif isinstance(source, PlainText | Repositories):
            find_tree(source)
        elif not isinstance(source, PythonCode):
            check_files(source)


def source_identity(source: Source) -> dict[str, Any]:
    """What an acquisition is a function of: its configuration, and the content of the user's own files.

    Web documentation and installed code are snapshots of a changing world: taken once for a configuration, then kept.
    """
    if isinstance(source, WebDocs | PythonCode):
        return source.identity()
    if isinstance(source, PlainText | Repositories):
        return {**source.identity(), "inventory": tree_identity(source, NoProgress())}
    return {**source.identity(), "inventory": list_files(source, NoProgress())}


def acquire(source: Source, attempt: Attempt, progress: Progress) -> dict[str, Any]:
    """Build the acquisition of `source`. Returns statistics: origin, documents, bytes, files, notes.

    Raises:
        ConfigError: the user's files are gone.
        ValueError: no way of getting web documentation works here; says why for each.
    """
    notes: list[str] = []
    if isinstance(source, WebDocs):
        origin, files = _acquire_web(source, attempt, progress, notes)
    elif isinstance(source, PythonCode):
        origin, files = "environment", collect_sources(source, attempt.output, progress)
    elif isinstance(source, PlainText | Repositories):
        origin = "files"
        files, notes = list_tree(source, progress)
    else:
        origin, files = "files", list_files(source, progress)
    for file in files:
        if "sha256" not in file:
            file["bytes"], file["sha256"] = checksum(attempt.output / file["path"])
    inventory: dict[str, Any] = {"source": source.name, "origin": origin, "licence": source.licence, "files": files}
    if isinstance(source, TextFiles):
        inventory["columns"] = source.columns()
    write_json(attempt.output / "inventory.json", inventory)
    return {
        "origin": origin,
        "documents": sum(file.get("documents", 0) for file in files),
        "bytes": sum(file["bytes"] for file in files),
        "files": [{"name": file["path"], "bytes": file["bytes"], "sha256": file["sha256"]} for file in files],
        "notes": notes,
    }


def _acquire_web(
    source: WebDocs, attempt: Attempt, progress: Progress, notes: list[str]
) -> tuple[str, list[dict[str, Any]]]:
    made_from: list[dict[str, Any]] = []

    def from_packages() -> Iterator[WebPage]:
        progress.start(None, "packages")
        packages, missing = debian.fetch_packages(source.packages, attempt.scratch, progress)
        notes.extend(missing)
        made_from.extend({"package": p.name, "version": p.version, "sha256": p.sha256} for p in packages)
        progress.start(len(packages), "packages")
        return debian.choose_pages(packages, source.pages, progress)

    def from_archive() -> Iterator[WebPage]:
        assert source.fallback_warc is not None
        made_from.append({"url": source.fallback_warc})
        return crawl.fetch_pages(source.fallback_warc, source.pages, progress)

    def from_python() -> Iterator[WebPage]:
        return pydoc_pages.fetch_pages(source.pages, attempt.scratch, progress)

    ways: dict[str, Callable[[], Iterator[WebPage]]] = {"debian": from_packages}
    if source.fallback_warc is not None:
        ways["common-crawl"] = from_archive
    ways["pydoc"] = from_python
    for origin, pages in ways.items():
        made_from.clear()
        try:
            return origin, archive_pages(pages(), attempt.output, f"{origin} pages", made_from, progress)
        except SourceUnavailable as error:
            notes.append(f"{origin}: {error}")
            shutil.rmtree(attempt.output / "warc", ignore_errors=True)
    raise ValueError(f"source {source.name!r} cannot be had here: {'; '.join(notes)}")
