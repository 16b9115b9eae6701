"""checksums.json: the list of everything a release holds, and the check that it holds exactly that.

The file is in canonical form (sorted keys, fixed white space), so that any changed byte of it is noticed too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from illada.artifacts import sha256_file, write_json

CHECKSUMS = "checksums.json"
_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ReleaseError(ValueError):
    """A release that is not what it says: names the file and what is wrong with it."""


def write_checksums(folder: Path) -> int:
    """List every file of `folder` but the list itself; returns how many there are."""
    files = {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in _walk(folder).items()}
    write_json(folder / CHECKSUMS, {"checksums_version": _VERSION, "files": files})
    return len(files)


def check_files(folder: Path) -> dict[str, str]:
    """The sha256 of every file by name, after checking that `folder` holds the listed files unchanged and no others.

    Raises:
        ReleaseError: naming the first missing, extra, linked or changed file, or a name that leaves the folder.
    """
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: no such folder; give the folder of a release")
    listed, present = _read(folder), _walk(folder)
    for name in sorted(listed.keys() | present.keys()):
        path = folder / name
        if name not in listed:
            raise ReleaseError(f"{path}: is not listed in {CHECKSUMS}; it is no part of the release")
        _check_name(folder, name)
        if name not in present:
            raise ReleaseError(f"{path}: is missing from the release")
        if path.stat().st_size != listed[name]["bytes"]:
            raise ReleaseError(f"{path}: has {path.stat().st_size} bytes, {CHECKSUMS} says {listed[name]['bytes']}")
        if sha256_file(path) != listed[name]["sha256"]:
            raise ReleaseError(f"{path}: its sha256 differs from the one in {CHECKSUMS}; fetch it again")
    return {name: str(entry["sha256"]) for name, entry in listed.items()}


def is_sha256(value: Any) -> bool:
    """Whether `value` looks like a sha256 in lower-case hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _walk(folder: Path) -> dict[str, Path]:
    """Every regular file by its name within the release. Raises ReleaseError for links and special files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ReleaseError(f"{path}: is a link or a special file; a release holds plain files only")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != CHECKSUMS:
            found[name] = path
    return found


def _check_name(folder: Path, name: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or "\\" in name or ".." in pure.parts or pure.as_posix() != name or name == CHECKSUMS:
        raise ReleaseError(f"{folder / CHECKSUMS}: {name!r} is not the name of a file inside the release")


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / CHECKSUMS
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        files: dict[str, dict[str, Any]] = value["files"]
        sound = (
            value == {"checksums_version": _VERSION, "files": files}
            and all(entry.keys() == {"bytes", "sha256"} for entry in files.values())
            and all(type(entry["bytes"]) is int and is_sha256(entry["sha256"]) for entry in files.values())
            and text == json.dumps(value, indent=1, sort_keys=True) + "\n"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{path}: is not a readable list of checksums ({error})") from None
    if not sound:
        raise ReleaseError(f"{path}: is not a list of checksums as illada writes it; it was changed")
    return files
