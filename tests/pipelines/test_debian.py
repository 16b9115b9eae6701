"""Packages of a Debian-family system: real packages and dpkg-deb, a stand-in for apt that needs no network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
from text_bench import Interrupt

from illada.artifacts import NoProgress, StageInterrupted, sha256_file
from pipelines.sources import debian
from pipelines.sources.base import SourceUnavailable, archive_pages

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="not a Debian-family system")

APT = """#!/bin/sh
echo "$(basename $0) $*" >> {repo}/log
case "$*" in *Dir::State=*) private=1 ;; *) private= ;; esac
case "$0 $*" in
*" update"*)
    [ -e {repo}/no-network ] && {{ echo "E: no network" >&2; exit 100; }}
    touch {repo}/updated; exit 0 ;;
*apt-cache*)
    [ -e {repo}/hangs ] && sleep 60
    [ -n "$private" ] && [ ! -e {repo}/updated ] && exit 100
    [ -z "$private" ] && [ -e {repo}/no-lists ] && exit 100
    for name in "$@"; do [ -e {repo}/$name.stanza ] && cat {repo}/$name.stanza; done
    exit 100 ;;
*" download "*)
    [ -e {repo}/no-download ] && [ -z "$private" ] && {{ echo "E: 404 not found" >&2; exit 100; }}
    for name in "$@"; do [ -e {repo}/$name.deb ] && cp {repo}/$name.deb "./${{name}}_1%3a2.0_all.deb"; done
    exit 0 ;;
esac
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages of pages, and an apt that knows them."""
    folder, tools = tmp_path / "repo", tmp_path / "bin"
    folder.mkdir()
    tools.mkdir()
    for name in ("apt-get", "apt-cache"):
        (tools / name).write_text(APT.format(repo=folder))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for name, count in (("first-doc", 30), ("second-doc", 4)):
        docs = tmp_path / name / "usr" / "share" / "doc" / name
        docs.mkdir(parents=True)
        for number in range(count):
            page = docs / f"page {number}.html"
            page.write_text(f"<html><p>Page {number} of {name}</p></html>")
            os.utime(page, (1_600_000_000 + number, 1_600_000_000 + number))
        build(tmp_path / name, name, folder)
    return folder


def build(root: Path, name: str, repo: Path) -> None:
    (root / "DEBIAN").mkdir(exist_ok=True)
    control = f"Package: {name}\nVersion: 1:2.0\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    (root / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", str(root), str(repo / f"{name}.deb")], check=True, capture_output=True)
    sha256 = sha256_file(repo / f"{name}.deb")
    (repo / f"{name}.stanza").write_text(
        f"Package: {name}\nVersion: 1:2.0\nFilename: x.deb\nSHA256: {sha256}\nDescription: x\n more: text\n\n"
    )


NAMES = ("first-doc", "second-doc")


def fetch(work: Path, names: tuple[str, ...] = NAMES) -> tuple[list[debian.Package], list[str]]:
    work.mkdir(exist_ok=True)
    return debian.fetch_packages(names, work, NoProgress())


def log(repo: Path) -> str:
    return (repo / "log").read_text()


def test_packages_are_downloaded_once(repo: Path, tmp_path: Path) -> None:
    packages, notes = fetch(tmp_path / "work", ("first-doc", "unknown-doc", "second-doc"))
    assert [(package.name, package.version) for package in packages] == [
        ("first-doc", "1:2.0"),
        ("second-doc", "1:2.0"),
    ]
    assert notes == ["packages not known here: unknown-doc"]
    assert all(sha256_file(package.file) == package.sha256 for package in packages)
    assert "update" not in log(repo)
    fetch(tmp_path / "work")
    assert log(repo).count(" download ") == 1
    packages[1].file.write_bytes(b"damaged")
    fetch(tmp_path / "work")
    assert log(repo).count(" download ") == 2
    assert log(repo).splitlines()[-1].endswith("download second-doc")


@pytest.mark.parametrize("trouble", ["no-lists", "no-download"])
def test_private_lists_where_the_systems_are_missing_or_stale(repo: Path, tmp_path: Path, trouble: str) -> None:
    (repo / trouble).touch()
    packages, _ = fetch(tmp_path / "work")
    assert len(packages) == 2
    update = next(line for line in log(repo).splitlines() if line.endswith(" update"))
    assert f"Dir::State={tmp_path}/work/apt/state" in update
    assert f"Dir::Cache={tmp_path}/work/apt/cache" in update


def test_without_network_every_reason_is_given(repo: Path, tmp_path: Path) -> None:
    (repo / "no-lists").touch()
    (repo / "no-network").touch()
    with pytest.raises(
        SourceUnavailable, match=r"none of the packages is known.*private.*apt-get failed: E: no network"
    ):
        fetch(tmp_path / "work")


def test_packages_that_arrive_damaged_are_not_used(repo: Path, tmp_path: Path) -> None:
    (repo / "first-doc.deb").write_bytes(b"not a package")
    with pytest.raises(SourceUnavailable, match="first-doc did not arrive intact"):
        fetch(tmp_path / "work")


def test_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="apt-get is not installed"):
        fetch(tmp_path / "work")


def test_a_tool_that_hangs_is_ended(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "hangs").touch()
    monkeypatch.setattr(debian, "_TIMEOUT", 0.3)
    with pytest.raises(SourceUnavailable, match="apt-cache took more than"):
        fetch(tmp_path / "work")


def test_interruption_ends_the_tool(repo: Path, tmp_path: Path) -> None:
    (repo / "hangs").touch()

    class Stop(NoProgress):
        def update(self, done: float, **figures: float | str) -> None:
            raise StageInterrupted

    (tmp_path / "work").mkdir()
    with pytest.raises(StageInterrupted):
        debian.fetch_packages(NAMES, tmp_path / "work", Stop())


def archive(work: Path, output: Path, count: int) -> list[dict[str, object]]:
    packages, _ = fetch(work)
    output.mkdir()
    return archive_pages(debian.choose_pages(packages, count, NoProgress()), output, "test", [], NoProgress())


def urls(folder: Path) -> list[str]:
    from pipelines.warc import Page, read_warc

    return [page.url for path in sorted(folder.glob("warc/*")) for page in read_warc(path) if isinstance(page, Page)]


def test_pages_are_taken_evenly_and_the_same_every_time(repo: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        archive(tmp_path / f"work-{run}", tmp_path / run, 20)
    found = urls(tmp_path / "a")
    assert len(found) == len(set(found)) == 20
    assert sum("/second-doc/" in url for url in found) == 4, "all there are of the small package"
    assert all(url.startswith("https://docs.debian-packages.invalid/") and "page%20" in url for url in found)
    assert sha256_file(tmp_path / "a/warc/00000.warc.gz") == sha256_file(tmp_path / "b/warc/00000.warc.gz")
    assert len(urls(tmp_path / "a")) < 34 and archive(tmp_path / "work-a", tmp_path / "c", 1000)
    assert len(urls(tmp_path / "c")) == 34


def test_only_real_pages_are_taken(repo: Path, tmp_path: Path) -> None:
    docs = tmp_path / "odd-doc" / "usr" / "share" / "doc"
    docs.mkdir(parents=True)
    wanted = ["index.html", "index.html.fr", "index.html.ru.koi8-r", "a.html.pt-br", "old.HTM", "x.xhtml"]
    for name in [*wanted, "image.png", "text.txt", "page.html.gz", "page.html.js", "html"]:
        (docs / name).write_text("<html><p>text</p></html>")
    (docs / "empty.html").touch()
    (docs / "huge.html").write_bytes(b" " * (debian.MAX_PAGE + 1))
    (docs / "link.html").symlink_to("index.html")
    (docs / "folder").symlink_to("/etc")
    build(tmp_path / "odd-doc", "odd-doc", repo)
    packages, _ = fetch(tmp_path / "work", ("odd-doc",))
    pages = [page.url.rpartition("/")[2] for page in debian.choose_pages(packages, 100, NoProgress())]
    assert sorted(pages) == sorted(wanted)


def test_packages_without_pages(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "no-doc").mkdir()
    build(tmp_path / "no-doc", "no-doc", repo)
    packages, _ = fetch(tmp_path / "work", ("no-doc",))
    with pytest.raises(SourceUnavailable, match="no HTML page in no-doc"):
        next(debian.choose_pages(packages, 10, NoProgress()))


def test_pages_that_cannot_be_unpacked(repo: Path, tmp_path: Path) -> None:
    packages, _ = fetch(tmp_path / "work")
    packages[1].file.write_bytes(b"not a package")
    with pytest.raises(SourceUnavailable, match="package second-doc cannot be unpacked: dpkg-deb: error"):
        next(debian.choose_pages(packages, 10, NoProgress()))


def test_interruption_while_archiving_ends_the_unpacking(repo: Path, tmp_path: Path) -> None:
    packages, _ = fetch(tmp_path / "work")
    (tmp_path / "out").mkdir()
    pages = debian.choose_pages(packages, 10, NoProgress())
    with pytest.raises(StageInterrupted):
        archive_pages(pages, tmp_path / "out", "test", [], Interrupt())
    pages.close()  # type: ignore[attr-defined]
    assert "dpkg-deb" not in [child.name() for child in psutil.Process().children()]
