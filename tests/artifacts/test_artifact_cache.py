"""The cache of a node: one download for all, within a bound, and nothing half-written is ever taken for a file."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from illada.artifacts import cache
from illada.artifacts.cache import cache_bytes, cached, remembered, scratch_folder


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ILLADA_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_since_measured", float("inf"))
    return tmp_path


def filled(size: int, calls: list[Path]) -> object:
    def download(path: Path) -> None:
        calls.append(path)
        time.sleep(0.05)
        path.write_bytes(b"x" * size)

    return download


def test_many_that_want_a_file_download_it_once() -> None:
    calls: list[Path] = []
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(cached("a/b", "v1", lambda: 5, filled(5, calls))))  # type: ignore[arg-type]
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 8 and len(calls) == 1
    assert paths[0].read_bytes() == b"xxxxx"
    assert [path.name for path in paths[0].parent.iterdir()] == ["b"]


def test_a_failed_download_leaves_nothing(root: Path) -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("another sha256")

    with pytest.raises(ValueError, match="another sha256"):
        cached("a", "v1", lambda: 5, broken)
    assert list((root / "files").iterdir()) == []
    assert cached("a", "v1", lambda: 5, filled(5, [])).exists()  # type: ignore[arg-type]


def test_the_least_recently_used_go_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLADA_CACHE_GB", "1e-6")  # 1000 bytes
    paths = [cached(name, "v1", lambda: 300, filled(300, [])) for name in "abc"]  # type: ignore[arg-type]
    for age, path in zip((5000, 4000, 3000), paths, strict=True):
        os.utime(path, (time.time() - age,) * 2)
    with paths[1].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert cached("a", "v1", lambda: 300, filled(300, [])) == paths[0]  # type: ignore[arg-type]  # used again
        fresh = cached("d", "v1", lambda: 300, filled(300, []))  # type: ignore[arg-type]
        assert {path.name for path in (root / "files").iterdir()} == {"a", "c", "d"}
        assert mapped[:] == b"x" * 300, "what is mapped stays readable"
    cached("e", "v1", lambda: 900, filled(900, []))  # type: ignore[arg-type]
    assert fresh.exists(), "nothing of the last minutes is removed, even beyond the bound"


def test_another_version_takes_the_place_of_the_one_before() -> None:
    for version in ("v1", "v2"):

        def download(path: Path, version: str = version) -> None:
            path.write_text(version)

        for _ in range(2):
            assert cached("a", version, lambda: 2, download).read_text() == version


@pytest.mark.parametrize("value", ["none", "0", "-1", "nan", "inf"])
def test_a_senseless_bound_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLADA_CACHE_GB", value)
    with pytest.raises(ValueError, match=f"ILLADA_CACHE_GB={value}: must be a positive number"):
        cache_bytes()


def test_scratch_of_the_dead_is_removed_and_of_the_living_is_not(root: Path) -> None:
    program = "import os\nfrom illada.artifacts import scratch_folder\nwith scratch_folder() as f:\n    os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 9
    assert len(list((root / "scratch").iterdir())) == 2
    with scratch_folder() as mine:
        assert {path.stem for path in (root / "scratch").iterdir()} == {mine.name}
        with scratch_folder():
            assert mine.is_dir()
    assert list((root / "scratch").iterdir()) == []


def test_what_is_remembered_is_computed_once() -> None:
    answers = iter(["one", "two"])
    assert remembered("key", lambda: next(answers)) == "one"
    assert remembered("key", lambda: next(answers)) == "one"
    assert remembered("other", lambda: next(answers)) == "two"
