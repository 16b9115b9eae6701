"""Pages that Python itself can render: pydoc's of the standard library, and the READMEs of installed distributions.

The last resort for a demonstration without network: real text by many authors, on any machine. Rendering imports the
modules, so it happens in a process of its own; modules that open windows, print or never return are left out.
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

from illada.artifacts import Progress, write_text
from pipelines.sources.base import SourceUnavailable, WebPage

HOST = "https://installed-python.invalid"
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
    """A README as a simple page: headings, paragraphs and blocks of code; other markup stays as it is."""
    body = []
    for number, part in enumerate(re.split(r"^(?:```|~~~).*$", text, flags=re.MULTILINE)):
        if number % 2:
            body.append(f"<pre>{html.escape(part)}</pre>")
            continue
        for block in filter(None, map(str.strip, re.split(r"\n\s*\n", part))):
            heading = re.match(r"#{1,6}\s+(.*)", block)
            if heading:
                body.append(f"<h2>{html.escape(heading[1])}</h2>")
            if rest := block[heading.end() if heading else 0 :].strip():
                body.append(f"<p>{html.escape(rest)}</p>")
    head = f"<head><title>{html.escape(title)}</title></head>"
    return f"<!DOCTYPE html>\n<html>{head}<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"


def render_modules(folder: Path) -> None:
    """Write pydoc's page of every module of the standard library that can be imported, dated as its source."""
    for name in _modules():
        with contextlib.suppress(BaseException):  # whatever a module does on import, the next one is tried
            module = import_module(name)
            page = pydoc.stripid(pydoc.HTMLDoc().page(name, pydoc.HTMLDoc().document(module, name)))
            write_text(folder / f"{name}.html", page)
            source = getattr(module, "__file__", None)
            written = int(Path(source).stat().st_mtime) if source else 0
            os.utime(folder / f"{name}.html", (written, written))


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
        yield WebPage(url=f"{HOST}/readme/{name}", date=datetime.fromtimestamp(0, UTC), read=page.__bytes__)


if __name__ == "__main__":
    render_modules(Path(sys.argv[1]))
