"""HTML documentation from the packages of a Debian-family system: downloaded with apt, unpacked, never installed.

Uses the system's package lists, and where these are missing or stale a private copy of them: neither root nor any
change to the system is needed. Pages get an address in the reserved domain .invalid, as they come from no web server.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from illada.artifacts import Progress, sha256_file
from pipelines.sources.base import SourceUnavailable, WebPage, by_hash

HOST = "https://docs.debian-packages.invalid"
MAX_PAGE = 4 * 2**20
# translations are often named like index.html.fr, index.html.zh-cn.utf8 or index.html.ru.koi8-r
_PAGE = re.compile(r"\.(x?html|htm)(\.(?!gz|xz|js)[a-z]{2}([_-][a-z]{2,4})?(\.[a-z0-9-]+)?)?$", re.IGNORECASE)
_TIMEOUT = 300.0
_PIECE = 2**20  # read in large pieces: every read may have to wait for another thread
_NETWORK = ("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A downloaded package file."""

    name: str
    version: str
    sha256: str
    file: Path


def fetch_packages(names: Sequence[str], work: Path, progress: Progress) -> tuple[list[Package], list[str]]:
    """Download what there is of `names` into `work`, in that order; returns the packages and notes about the rest.

    Packages downloaded before (and intact) are not downloaded again.

    Raises:
        SourceUnavailable: not a Debian-family system, no network, or none of the packages exists; says which.
    """
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SourceUnavailable(f"{tool} is not installed (not a Debian-family system)")
    reasons = []
    for where, options in (("the system's package lists", ()), ("private package lists", _private_options(work))):
        try:
            if options:
                _run(["apt-get", *options, *_NETWORK, "update"], work, progress)
            return _fetch(names, options, work, progress)
        except SourceUnavailable as error:
            reasons.append(f"with {where}: {error}")
    raise SourceUnavailable("; ".join(reasons))


def choose_pages(packages: Sequence[Package], count: int, progress: Progress) -> Iterator[WebPage]:
    """About `count` pages of `packages`, evenly over these and by hash within each, package by package.

    Packages are unpacked as streams, twice: for the names, then for the chosen pages. Nothing touches the disk.

    Raises:
        SourceUnavailable: a package cannot be unpacked, or there is no page in any of them.
    """
    found = []
    for number, package in enumerate(packages):
        progress.update(number)
        names = [name for name, _, _ in _pages_in(package)]
        found.append([(package.name, name) for name in by_hash(names)])
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*found))
    chosen = set(itertools.islice((item for item in rounds if item is not None), count))
    if not chosen:
        raise SourceUnavailable(f"no HTML page in {', '.join(package.name for package in packages)}")
    progress.start(len(chosen), "pages")
    for package in packages:
        for name, date, read in _pages_in(package):
            if (package.name, name) in chosen:
                url = f"{HOST}/{package.name}/{quote(os.fsencode(name))}"
                yield WebPage(url=url, date=date, read=read)


def _pages_in(package: Package) -> Iterator[tuple[str, datetime, Callable[[], bytes]]]:
    """Path, date and content of the package's pages; links to pages are left out. Content must be read at once."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package.file)]
    process = subprocess.Popen(
        command, bufsize=_PIECE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=_PIECE, errors="surrogateescape") as tar:
            for member in tar:
                if member.isreg() and 0 < member.size <= MAX_PAGE and _PAGE.search(member.name):
                    date = datetime.fromtimestamp(int(member.mtime), UTC)
                    yield member.name.removeprefix("./"), date, functools.partial(_content, tar, member)
    except tarfile.TarError as error:
        message = process.stderr.read().decode(errors="replace").strip() or str(error)
        raise SourceUnavailable(f"package {package.name} cannot be unpacked: {message}") from None
    finally:
        process.kill()
        process.communicate()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "a regular file has content"
    return file.read()


def _fetch(
    names: Sequence[str], options: Sequence[str], work: Path, progress: Progress
) -> tuple[list[Package], list[str]]:
    known = _describe(names, options, work, progress)
    if not known:
        raise SourceUnavailable(f"none of the packages is known: {', '.join(names)}")
    store, fresh = work / "debs", work / "downloading"
    store.mkdir(exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    missing = [name for name, (_, sha256) in known.items() if not _intact(store / f"{name}.deb", sha256)]
    if missing:
        _run(["apt-get", *options, *_NETWORK, "download", *missing], fresh, progress)
    for name in missing:
        downloaded = sorted(fresh.glob(f"{name}_*.deb"))
        if not downloaded or not _intact(downloaded[0], known[name][1]):
            raise SourceUnavailable(f"package {name} did not arrive intact")
        downloaded[0].replace(store / f"{name}.deb")
    packages = [
        Package(name=name, version=version, sha256=sha256, file=store / f"{name}.deb")
        for name, (version, sha256) in known.items()
    ]
    unknown = [name for name in names if name not in known]
    return packages, [f"packages not known here: {', '.join(unknown)}"] if unknown else []


def _describe(
    names: Sequence[str], options: Sequence[str], work: Path, progress: Progress
) -> dict[str, tuple[str, str]]:
    """Version and sha256 of those packages that the lists have, in the order of `names`."""
    text = _run(["apt-cache", *options, "show", "--no-all-versions", *names], work, progress, may_fail=True)
    known = {}
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if {"Package", "Version", "SHA256", "Filename"} <= fields.keys():
            known[fields["Package"]] = (fields["Version"], fields["SHA256"])
    return {name: known[name] for name in names if name in known}


def _intact(file: Path, sha256: str) -> bool:
    return file.is_file() and sha256_file(file) == sha256


def _private_options(work: Path) -> tuple[str, ...]:
    """apt options that keep all of its state under `work`; sources and keys stay the system's."""
    root = work / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    settings = (
        f"Dir::State={root / 'state'}",
        f"Dir::State::status={root / 'status'}",
        f"Dir::Cache={root / 'cache'}",
        "APT::Sandbox::User=root",
    )
    return tuple(part for setting in settings for part in ("-o", setting))


def _run(command: Sequence[str], folder: Path, progress: Progress, may_fail: bool = False) -> str:
    """Standard output of `command`, run in `folder` while progress is kept up. Raises SourceUnavailable."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    what, deadline = " ".join(command[:1]), time.monotonic() + _TIMEOUT
    with (folder / ".stdout").open("w+b") as out, (folder / ".stderr").open("w+b") as err:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise SourceUnavailable(f"{what} took more than {_TIMEOUT:.0f} s")
                time.sleep(0.05)
                progress.update(0, doing=what)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        out.seek(0)
        err.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode and not may_fail:
        lines = [line for line in errors.splitlines() if line.startswith("E:")] or errors.splitlines()
        raise SourceUnavailable(f"{what} failed: {' '.join(lines[:3]).strip() or process.returncode}")
    return text
