"""The user's trees of small files: plain texts and source repositories, found, filtered by name, and checksummed.

A file's name begins behind the last folder before the first wildcard, or with the folder that is named: `/data/books`
and `/data/*` give `books/...`, whatever `/data` is called. Names decide the order. Links in a folder are not followed.
"""

from __future__ import annotations

import functools
import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from illada.artifacts import Progress, fingerprint
from illada.artifacts.folder import is_url
from illada.config import ConfigError, PlainText, Repositories
from pipelines.code_files import OTHER, rule
from pipelines.sources.files import content_checksum

Tree = PlainText | Repositories
_Skip = Callable[[str], str | None]
_THREADS = 16


def find_tree(source: Tree) -> tuple[dict[str, str], Counter[str]]:
    """Paths and URLs of the source's files by name, in the order of names; and what was left out, by reason.

    What is left out counts once: a file, or on this machine a whole folder.

    Raises:
        ConfigError: a path that names nothing, two files of one name, a place that cannot be looked at, or no file.
    """
    found: dict[str, str] = {}
    skipped = Counter[str]()
    skip = rule(source.kind, source.extensions if isinstance(source, Repositories) else ())
    for pattern in source.paths:
        try:
            matches = list((_remote if is_url(pattern) else _local)(pattern, skip, skipped))
        except ConfigError:
            raise
        except Exception as error:  # every file system and client has errors of its own
            message = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"source {source.name!r}: {pattern}: cannot be looked at ({message})") from error
        if not matches:
            raise ConfigError(f"source {source.name!r}: {pattern}: no file of {source.kind} is there")
        for name, path in matches:
            if found.setdefault(name, path) != path:
                raise ConfigError(
                    f"source {source.name!r}: {found[name]} and {path} are both called {name}; make two sources of them"
                )
    return dict(sorted(found.items())), skipped


def list_tree(source: Tree, progress: Progress) -> tuple[list[dict[str, Any]], list[str]]:
    """The inventory's file rows, as of `list_files`, and notes on what was left out."""
    found, skipped = find_tree(source)
    progress.start(len(found), "files")
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        sums = threads.map(functools.partial(_checksum, source), found.values())
        for (name, path), (size, sha256) in zip(found.items(), sums, strict=True):
            progress.update(len(rows))
            row = {"path": path, "kind": source.kind, "bytes": size, "sha256": sha256, "made_from": [{"name": name}]}
            rows.append(row)
    return rows, [f"left out: {count:,} {reason}" for reason, count in sorted(skipped.items())]


def tree_identity(source: Tree, progress: Progress) -> dict[str, Any]:
    """What stands for the files in the identity of the acquisition: one digest of all, as they may be millions."""
    rows, _ = list_tree(source, progress)
    return {"files": len(rows), "bytes": sum(row["bytes"] for row in rows), "sha256": fingerprint(rows)}


def _local(pattern: str, skip: _Skip, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    base, absolute = _base(os.path.normpath(Path(pattern).expanduser().absolute()))
    for match in sorted(glob.glob(absolute, recursive=True)):  # noqa: PTH207 (takes absolute ones)
        place = match.rstrip("/")
        folder = Path(place).is_dir()
        for path in _walk(place, skip, skipped) if folder else [place]:
            yield path.removeprefix(base).lstrip("/"), path


def _walk(root: str, skip: _Skip, skipped: Counter[str]) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=failed):
        inside = folder.removeprefix(root).lstrip("/")
        prefix = f"{inside}/" if inside else ""
        folders[:] = [name for name in folders if _enters(f"{prefix}{name}", skip, skipped)]
        for name in files:
            if _kept(f"{prefix}{name}", skip, skipped) and stat.S_ISREG(os.lstat(f"{folder}/{name}").st_mode):
                yield f"{folder}/{name}"


def _enters(name: str, skip: _Skip, skipped: Counter[str]) -> bool:
    """Whether files below a folder may be wanted; else the folder counts."""
    reason = skip(f"{name}/x")
    if reason in (None, OTHER):
        return True
    skipped[reason] += 1
    return False


def _kept(name: str, skip: _Skip, skipped: Counter[str]) -> bool:
    reason = skip(name)
    if reason is not None:
        skipped[reason] += 1
    return reason is None


def _remote(pattern: str, skip: _Skip, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    system, place = url_to_fs(pattern, use_listings_cache=False)
    base, place = _base(place.rstrip("/"))
    for match in sorted(system.glob(place)) if glob.has_magic(place) else [place]:
        folder = not system.isfile(match)
        for path in sorted(system.find(match)) if folder else [match]:
            inside = path.removeprefix(match).lstrip("/") if folder else path.rpartition("/")[2]
            if _kept(inside, skip, skipped):
                yield path.removeprefix(base).lstrip("/"), system.unstrip_protocol(path)


def _base(place: str) -> tuple[str, str]:
    """The folder that names are relative to, and the place itself."""
    parts = place.split("/")
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:first]), place


def _checksum(source: Tree, path: str) -> tuple[int, str]:
    try:
        return content_checksum(path)
    except OSError as error:
        raise ConfigError(f"source {source.name!r}: {path}: {error.strerror or error}") from None
