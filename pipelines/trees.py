"""Files that are a document each: how many make a unit, and their text.

Kinds `text` and `code` of an inventory. A file's name is its path within the source, which does not depend on where the
source is; it gives the document's address and, with the content, its id.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fsspec.core import url_to_fs

from illada.artifacts.folder import is_url
from pipelines.charset import decode
from pipelines.warc import MAX_BLOCK, Damage

TREES = ("text", "code")
GROUP_BYTES, GROUP_FILES = 64 * 2**20, 20_000
MAX_FILE = MAX_BLOCK
"""Bytes of a file; larger ones are passed over."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # text has tabs, line and page ends, and escapes
_MOST_WRONG = 100  # one character in so many


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFile:
    """A file's text, with line ends as in Unix. `content` is what identifies it."""

    name: str
    content: bytes
    text: str


def grouped(sizes: Sequence[int], most_files: int = GROUP_FILES) -> list[tuple[int, int]]:
    """Cut files of so many bytes, in their order, into groups [first, last) of about GROUP_BYTES."""
    groups, first, held = [], 0, 0
    for index, size in enumerate(sizes):
        held += size
        if held >= GROUP_BYTES or index - first + 1 == most_files or index == len(sizes) - 1:
            groups.append((first, index + 1))
            first, held = index + 1, 0
    return groups


def group_files(files: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, float, dict[str, Any]]]:
    """The units of an inventory's rows: number of the first file, 0, bytes, and the payload's own keys."""
    for first, last in grouped([file["bytes"] for file in files]):
        some = files[first:last]
        size = sum(file["bytes"] for file in some)
        more = f" and {len(some) - 1:,} more" if len(some) > 1 else ""
        payload = {
            "name": some[0]["path"] + more,
            "kind": some[0]["kind"],
            "bytes": size,
            "files": [{"name": file["made_from"][0]["name"], "bytes": file["bytes"], **file["file"]} for file in some],
        }
        yield first, 0, size, payload


def read_files(files: Sequence[Mapping[str, Any]], source: str) -> Iterator[TextFile | Damage]:
    """The text of every file of a unit, in order, or what is wrong with it.

    Raises:
        ValueError: a file is gone or has another content than when the source was acquired.
    """
    for file in files:
        name = file["name"]
        if file["bytes"] > MAX_FILE:
            error = f"has {file['bytes']:,} bytes, more than {MAX_FILE:,}"
            yield Damage(where=name, error=error, reason="too_large")
            continue
        content = _content(file, source)
        text = decode(content)
        if (wrong := _no_text(text)) is not None:
            yield Damage(where=name, error=wrong, reason="undecodable")
        else:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            yield TextFile(name=name, content=content, text=text)


def address(source: str, name: str) -> str:
    """The URL of a file of a source that has no other."""
    return f"file:///{quote(source)}/{quote(os.fsencode(name))}"


def _content(file: Mapping[str, Any], source: str) -> bytes:
    url = file["url"]
    try:
        if is_url(url):
            system, path = url_to_fs(url)
            content: bytes = system.cat_file(path)
        else:
            with Path(url).open("rb") as opened:
                content = opened.read(file["bytes"] + 1)
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise ValueError(
            f"{url}: missing or changed since source {source!r} was acquired; run again to take it as it is now"
        )
    return content


def _no_text(text: str) -> str | None:
    """Why what was decoded is no text, or None."""
    controls, wrong = len(_CONTROL.findall(text)), text.count("\ufffd")
    if "\0" in text or (controls + wrong) * _MOST_WRONG > len(text):
        return f"is in no known encoding of text: {controls} control characters and {wrong} invalid ones"
    return None
