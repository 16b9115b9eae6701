"""Python sources of the installed environment (standard library and distributions) as documents.

Which files is decided by the hash of their paths: an arbitrary choice, but the same wherever the same versions are
installed.
"""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from illada.artifacts import Progress
from illada.config import PythonCode
from pipelines.documents import TextDocument, document_id, write_documents
from pipelines.languages import PYTHON
from pipelines.sources.base import by_hash
from pipelines.sources.pydoc_pages import HOST

DOCUMENTS_PER_FILE = 500
_SIZES = range(200, 200_000)
_SKIPPED = {"site-packages", "dist-packages", "__pycache__"}
_STANDARD_LIBRARY = "python"


def collect_sources(source: PythonCode, folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Write `code/00000.parquet` ... under `folder`; returns the inventory's file rows."""
    files = {f"{root}/{name}": path for root, base in _roots() for name, path in _python_files(base)}
    progress.start(source.files, "files")
    documents: list[tuple[str, TextDocument]] = []
    for name in by_hash(files):
        text = _text(files[name])
        if text is not None:
            documents.append((name, _document(source.name, name, text)))
            progress.update(len(documents))
        if len(documents) == source.files:
            break
    documents.sort(key=lambda item: item[0])
    owners, rows = _owners(), []
    for number, first in enumerate(range(0, len(documents), DOCUMENTS_PER_FILE)):
        part = documents[first : first + DOCUMENTS_PER_FILE]
        path = f"code/{number:05d}.parquet"
        write_documents(folder / path, (document for _, document in part))
        made_from = sorted({owners.get(name, (_STANDARD_LIBRARY, sys.version.split()[0])) for name, _ in part})
        rows.append(
            {
                "path": path,
                "kind": "parquet",
                "documents": len(part),
                "made_from": [{"package": package, "version": version} for package, version in made_from],
            }
        )
    return rows


def _roots() -> list[tuple[str, Path]]:
    """Where sources are, each under a name that is the same on every machine."""
    paths = sysconfig.get_paths()
    roots = {Path(paths["stdlib"]): _STANDARD_LIBRARY, Path(paths["purelib"]): "site", Path(paths["platlib"]): "site"}
    return [(name, path) for path, name in roots.items() if path.is_dir()]


def _python_files(base: Path) -> Iterator[tuple[str, Path]]:
    for directory, folders, names in os.walk(base):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        for name in names:
            if name.endswith(".py"):
                path = Path(directory, name)
                state = path.lstat()
                if stat.S_ISREG(state.st_mode) and state.st_size in _SIZES:
                    yield path.relative_to(base).as_posix(), path


def _text(path: Path) -> str | None:
    """The source in its declared encoding; None when it is not text."""
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        return None
    return None if "\0" in text else text.replace("\r\n", "\n").lstrip("\ufeff")


def _document(source: str, name: str, text: str) -> TextDocument:
    module = name.partition("/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return TextDocument(
        text=text,
        id=document_id(source, name, text),
        url=f"{HOST}/{name}",
        source=source,
        language=PYTHON,
        language_score=1.0,
        title=module,
    )


def _owners() -> dict[str, tuple[str, str]]:
    """Name and version of the distribution each installed file belongs to, by the file's name here."""
    owners = {}
    for distribution in metadata.distributions():
        owner = (distribution.metadata["Name"], distribution.version)
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if row and row[0].endswith(".py"):
                owners[f"site/{row[0]}"] = owner
    return owners
