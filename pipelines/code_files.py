"""Which files of a source repository are its authors' own code: rules on names, and on what a file holds.

Lines too long to be written by hand and marks of generated code as in Codex (arXiv 2107.03374, section 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import PurePosixPath

from pipelines.languages import CODE, PYTHON

HIDDEN, VENDORED, GENERATED, OTHER = "hidden", "vendored", "generated", "of other kinds"
NOT_UNICODE, LONG_LINES = "not named in UTF-8", "long_lines"
_VENDORED = re.compile(
    r"(?:^|/)(?:bower_components|dist|dist-packages|jspm_packages|node_modules|pods|site-packages|third[_-]?party|"
    r"vendors?|venv|__pycache__)/",
    re.IGNORECASE,
)
"""Folders of other people's code, or of what was made of one's own."""
_GENERATED_NAME = re.compile(
    r"[._-]min\.\w+|\.bundle\.\w+|_pb2(_grpc)?\.pyi?|[._]pb\.(go|cc|h|rb|swift)|\.(g|freezed)\.dart|\.designer\.cs|"
    r"\.g\.cs|\.generated\.\w+|_generated\.\w+",
    re.IGNORECASE,
)
_GENERATED_TEXT = re.compile(
    r"auto-?\s?generated|automatically\s+generated|@generated|code\s+generated|^\W*generated\s+by", re.I | re.M
)
_MARKED_LINES = 5
_LONGEST_LINE, _LONGEST_MEAN = 1000, 100  # characters


def hidden(name: str) -> bool:
    """Whether a path has a part that begins with a dot, such as `.git`."""
    return name.startswith(".") or "/." in name


def rule(kind: str, extensions: Collection[str]) -> Callable[[str], str | None]:
    """Why a file of a source of this kind (`text`, `code` or another one) is not read, by its name; None if it is."""
    if kind == "code":
        return partial(left_out, extensions=frozenset(ending.lower() for ending in extensions))
    return _unreadable_name if kind == "text" else lambda _: None


def _unreadable_name(name: str) -> str | None:
    if hidden(name):
        return HIDDEN
    try:
        name.encode()
    except UnicodeEncodeError:
        return NOT_UNICODE
    return None


def left_out(name: str, extensions: Collection[str]) -> str | None:
    """Why a path of a repository is none of its code, by its name alone; None when it may be code.

    Args:
        extensions: endings of code without their dot, in lower case.
    """
    if (reason := _unreadable_name(name)) is not None:
        return reason
    if _VENDORED.search(name):
        return VENDORED
    file = name.rpartition("/")[2].lower()
    if file.rpartition(".")[2] not in extensions or "." not in file:
        return OTHER
    match = _GENERATED_NAME.search(file)
    return GENERATED if match is not None and match.end() == len(file) else None


def not_written(text: str) -> str | None:
    """Why the text of a file is not what somebody wrote: a reason to drop it, or None."""
    lines = text.splitlines()
    if any(map(_GENERATED_TEXT.search, lines[:_MARKED_LINES])):
        return GENERATED
    if lines and (max(map(len, lines)) > _LONGEST_LINE or len(text) > _LONGEST_MEAN * len(lines)):
        return LONG_LINES
    return None


def code_language(name: str) -> str:
    """What stands for the language of a file of code."""
    return PYTHON if PurePosixPath(name).suffix.lower() in (".py", ".pyi") else CODE
