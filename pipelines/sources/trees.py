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
_Wanted = Callable[[str], bool]
_THREADS = 16


def find_tree(source: Tree) -> tuple[dict[str, str], Counter[str]]:
    """Paths and URLs of the source's files by name, in the order of names; and what was left out, by reason.

    What is left out counts once: a file, or on this machine a whole folder.

    Raises:
        ConfigError: a path that names nothing, two files of one name, a place that cannot be looked at, or no file.
    """
    found: dict[str, str] = {}
    skipped: dict[str, str] = {}
    why_not = rule(source.kind, source.extensions if isinstance(source, Repositories) else ())

    def wanted(name: str) -> bool:
        """Whether a file is, or something in a folder (with a slash at its end) may be."""
        reason = why_not(f"{name}x" if name.endswith("/") else name)
        if reason is None or (reason == OTHER and name.endswith("/")):
            return True
        skipped[name] = reason
        return False

    for pattern in source.paths:
        try:
            matches = list((_remote if is_url(pattern) else _local)(pattern, wanted))
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
    return dict(sorted(found.items())), Counter(skipped.values())


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


def _local(pattern: str, wanted: _Wanted) -> Iterator[tuple[str, str]]:
    place = os.path.normpath(Path(pattern).expanduser().absolute())
    base = _base(place)
    chosen = base if glob.has_magic(place) or not Path(place).is_dir() else place  # rules are for what is below
    for match in sorted(glob.glob(place, recursive=True)):  # noqa: PTH207 (takes absolute ones)
        path = match.rstrip("/")
        folder = Path(path).is_dir()
        if folder and path != chosen and not wanted(_below(chosen, f"{path}/")):
            continue
        for file in _walk(path, chosen, wanted) if folder else [path]:
            if wanted(_below(chosen, file)):
                yield _below(base, file), file


def _walk(root: str, chosen: str, wanted: _Wanted) -> Iterator[str]:
    """The regular files below `root`, but of folders of which none is wanted."""

    def failed(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=failed):
        folders[:] = [name for name in folders if wanted(_below(chosen, f"{folder}/{name}/"))]
        yield from (path for name in files if stat.S_ISREG(os.lstat(path := f"{folder}/{name}").st_mode))


def _remote(pattern: str, wanted: _Wanted) -> Iterator[tuple[str, str]]:
    system, place = url_to_fs(pattern, use_listings_cache=False)
    place = place.rstrip("/")
    base, magic = _base(place), glob.has_magic(place)
    chosen = base if magic or system.isfile(place) else place
    for match in sorted(system.glob(place)) if magic else [place]:
        for path in [match] if system.isfile(match) else sorted(system.find(match)):
            if wanted(_below(chosen, path)):
                yield _below(base, path), system.unstrip_protocol(path)


def _below(folder: str, path: str) -> str:
    return path.removeprefix(folder).lstrip("/")


def _base(place: str) -> str:
    """The folder that names are relative to."""
    parts = place.split("/")
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:first])


def _checksum(source: Tree, path: str) -> tuple[int, str]:
    try:
        return content_checksum(path)
    except OSError as error:
        raise ConfigError(f"source {source.name!r}: {path}: {error.strerror or error}") from None
