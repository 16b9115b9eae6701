"""Where text comes from: the kinds of `data.sources`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from illada.config.base import Config
from illada.config.names import SourceName

_EXTENSIONS = """
ada adb ads asm bash c cc cjs clj cljs cmake cpp cs cu cuh cxx d dart el erl ex exs f f03 f90 f95 for fs fsx glsl go
groovy h hh hpp hrl hs hxx java jl js jsx kt kts lisp lua m mjs ml mli mm nim pas php pl pm proto ps1 py pyi r rb rs s
scala scm sh sql sv swift tcl tf thrift ts tsx v vhd vhdl vue zig
"""
CODE_EXTENSIONS = tuple(_EXTENSIONS.split())
"""Endings of files that hold source code, compared without regard to case."""
COLUMNS = ("text", "id", "url", "date")
"""What a column of a table may hold."""


class WebDocs(Config):
    """HTML documentation of a Debian-family system, downloaded (never installed) and archived as WARC.

    Elsewhere `fallback_warc` is fetched over HTTPS; with neither, the pages Python's own pydoc renders plus installed
    READMEs are archived the same way.
    """

    kind: Literal["web-docs"] = "web-docs"
    name: SourceName
    packages: tuple[str, ...] = Field(min_length=1)
    pages: int = Field(gt=0)
    fallback_warc: str | None = None
    licence: str = "various"


class PythonCode(Config):
    """Python sources and docstrings of the installed environment."""

    kind: Literal["python-code"] = "python-code"
    name: SourceName
    files: int = Field(gt=0)
    licence: str = "various"


class WarcFiles(Config):
    """WARC files (plain, gzip or zstd) by path or glob: pages, or the texts of WET files."""

    kind: Literal["warc"] = "warc"
    name: SourceName
    paths: tuple[str, ...] = Field(min_length=1)
    licence: str = "unknown"


class TextFiles(Config):
    """Parquet, JSON-lines (plain, .gz, .zst) or folders saved by `datasets`, by path or glob, with one text column.

    `date_column` says when a text was published or fetched (ISO 8601, or a column of dates).
    """

    kind: Literal["parquet", "jsonl", "hf-dataset"]
    name: SourceName
    paths: tuple[str, ...] = Field(min_length=1)
    text_column: str = "text"
    id_column: str | None = None
    url_column: str | None = None
    date_column: str | None = None
    licence: str = "unknown"

    def columns(self) -> dict[str, str | None]:
        """The columns by what they hold."""
        return {key: getattr(self, f"{key}_column") for key in COLUMNS}


class PlainText(Config):
    """Plain text files, a document each: files, or all files below folders, by path or glob."""

    kind: Literal["text"] = "text"
    name: SourceName
    paths: tuple[str, ...] = Field(min_length=1)
    licence: str = "unknown"


class Repositories(Config):
    """Source code, a document a file: the files with these extensions below checked-out folders, by path or glob."""

    kind: Literal["code"] = "code"
    name: SourceName
    paths: tuple[str, ...] = Field(min_length=1)
    extensions: tuple[str, ...] = CODE_EXTENSIONS
    licence: str = "unknown"


Source = Annotated[WebDocs | PythonCode | WarcFiles | TextFiles | PlainText | Repositories, Field(discriminator="kind")]
