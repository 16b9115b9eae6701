"""Pages that Python itself can render: what pydoc knows of the standard library, and installed distributions' READMEs.

The last resort for a demonstration without network: real text by many authors, on any machine. Importing the modules
happens in a process of its own; those that open windows, print or never return are left out. pydoc's own HTML is tables
of non-breaking blanks, which no extraction of text survives, so the documentation it finds is laid out anew.
"""

from __future__ import annotations

import contextlib
import html
import os
import pkgutil
import pydoc
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from illada.artifacts import Progress, write_text
from pipelines.sources.base import SourceUnavailable, WebPage

HOST = "https://installed-python.invalid"
UNKNOWN_DATE = datetime.fromtimestamp(0, UTC)
_TIMEOUT = 120.0
_LEFT_OUT = re.compile(
    r"(^|\.)(_.*|test|tests|idlelib|turtledemo|lib2to3|antigravity|this|tkinter|turtle|ensurepip|venv)(\.|$)"
)


def fetch_pages(count: int, work: Path, progress: Progress) -> Iterator[WebPage]:
    """Up to `count` pages: READMEs first, then modules in the order of their names.

    Raises:
        SourceUnavailable: nothing could be rendered.
    """
    folder = work / "pydoc"
    folder.mkdir(exist_ok=True)
    progress.start(None, "modules")
    with (work / ".pydoc").open("wb") as log:
        command = [sys.executable, "-m", "pipelines.sources.pydoc_pages", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _TIMEOUT
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                progress.update(sum(1 for _ in folder.iterdir()))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    pages = [*_readmes(), *(_module_page(path) for path in sorted(folder.glob("*.html")))][:count]
    if not pages:
        raise SourceUnavailable("pydoc rendered no page, and no installed distribution has a README")
    progress.start(len(pages), "pages")
    yield from pages


def readme_html(text: str, title: str) -> str:
    """A README (Markdown, mostly) as a simple page: headings, paragraphs and blocks of code; links as their text."""
    body = []
    for number, part in enumerate(re.split(r"^\s*(?:```|~~~).*$", text, flags=re.MULTILINE)):
        if number % 2:
            body.append(f"<pre>{html.escape(part)}</pre>")
        else:
            body += [_block(_plain(block)) for block in re.split(r"\n\s*\n", part)]
    return _page(title, body)


def module_html(module: ModuleType) -> str:
    """The documentation pydoc finds in a module: its own, and that of its public functions, classes and methods."""
    body = [f"<h1>{html.escape(module.__name__)}</h1>", *_paragraphs(pydoc.getdoc(module))]
    for name, item in _documented(module):
        if getattr(item, "__module__", None) == module.__name__:
            body += [f"<h2>{html.escape(name)}</h2>", *_paragraphs(pydoc.getdoc(item))]
            if isinstance(item, type):
                for inner, method in _documented(item):
                    if inner in vars(item):
                        body += [f"<h3>{html.escape(inner)}</h3>", *_paragraphs(pydoc.getdoc(method))]
    return _page(module.__name__, body)


def render_modules(folder: Path) -> None:
    """Write a page for every module of the standard library that can be imported, dated as its source."""
    for name in _modules():
        with contextlib.suppress(BaseException):  # whatever a module does on import, the next one is tried
            module = import_module(name)
            write_text(folder / f"{name}.html", module_html(module))
            source = getattr(module, "__file__", None)
            written = int(Path(source).stat().st_mtime) if source else 0
            os.utime(folder / f"{name}.html", (written, written))


def _documented(owner: object) -> Iterator[tuple[str, object]]:
    """Public functions and classes."""
    for name in sorted(vars(owner)):
        item = getattr(owner, name, None)
        if pydoc.visiblename(name) and not name.startswith("__") and callable(item):
            yield name, item


def _paragraphs(text: str) -> list[str]:
    return [_block(block) for block in re.split(r"\n\s*\n", text)]


def _block(text: str) -> str:
    """A heading, code (indented or a session) or a paragraph, in which line ends mean nothing."""
    heading = re.match(r"#{1,6}\s+(.+)\n?", text.strip())
    if heading:
        return f"<h2>{html.escape(heading[1])}</h2>" + _block(text.strip()[heading.end() :])
    if not text.strip():
        return ""
    if text.startswith((" ", ">>>", "$ ")):
        return f"<pre>{html.escape(text)}</pre>"
    items = re.split(r"^\s*[-*+]\s+", text, flags=re.MULTILINE)
    return "".join(f"<p>{html.escape(' '.join(item.split()))}</p>" for item in items if item.strip())


def _plain(markdown: str) -> str:
    """Without images, link targets, HTML tags, tables and marks of emphasis."""
    text = re.sub(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])", "", markdown)
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"<[^<>]+>|^\s*(\||:?-{3}|\.\. |\[[^\]]+\]:).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"(\*\*|__|``?)(.+?)\1", r"\2", text)


def _page(title: str, body: list[str]) -> str:
    head = f"<head><title>{html.escape(title)}</title></head>"
    return f"<!DOCTYPE html>\n<html>{head}<body><main>\n" + "\n".join(filter(None, body)) + "\n</main></body></html>\n"


def _modules() -> Iterator[str]:
    for name in sorted(sys.stdlib_module_names):
        if _LEFT_OUT.search(name):
            continue
        yield name
        with contextlib.suppress(BaseException):
            path = getattr(import_module(name), "__path__", [])
            inside = [info.name for info in pkgutil.iter_modules(path, f"{name}.")]
            yield from (inner for inner in inside if not _LEFT_OUT.search(inner))


def _module_page(path: Path) -> WebPage:
    date = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    return WebPage(url=f"{HOST}/pydoc/{path.name}", date=date, read=path.read_bytes)


def _readmes() -> Iterator[WebPage]:
    found = {}
    for distribution in metadata.distributions():
        title = f"{distribution.metadata['Name']} {distribution.version}"
        text = str(distribution.metadata.json.get("description", ""))
        if text.strip():
            found[title.replace(" ", "-")] = readme_html(text, title).encode()
    for name, page in sorted(found.items()):
        yield WebPage(url=f"{HOST}/readme/{name}", date=UNKNOWN_DATE, read=page.__bytes__)


if __name__ == "__main__":
    render_modules(Path(sys.argv[1]))
