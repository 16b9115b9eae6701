"""What a node keeps of an object store: downloads, within a bound, and scratch folders of what is being built.

    <cache>/files/...       downloads, each under its own address; complete and checked, or not there
    <cache>/versions/...    which version of each file that is
    <cache>/remembered/...  small results, such as the checksum of an object of a certain version
    <cache>/scratch/...     private folders of live processes; those of dead ones are removed by the next to come

`ILLADA_CACHE` names the folder, `ILLADA_CACHE_GB` its bound. Beyond the bound the least recently used downloads go, but
none of the last minutes: whoever has asked for a file may not have opened it yet. One that is open, or mapped, stays
readable after its removal, as files do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from illada.artifacts.files import atomic_path, write_text

_DEFAULT_BYTES = 100 * 10**9
_RECENT_SECONDS = 600.0
_CHECKS_PER_BOUND = 20  # how many times the cache is measured while as much as it may hold is downloaded

_lock = threading.Lock()
_since_measured = float("inf")


def cache_root() -> Path:
    """The cache folder of this node and user, made if need be."""
    given = os.environ.get("ILLADA_CACHE")
    root = Path(given).expanduser() if given else Path(tempfile.gettempdir()) / f"illada-cache-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given and root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root}: belongs to another user; name a folder of your own in ILLADA_CACHE")
    return root.resolve()


def cache_bytes() -> int:
    """The bound on downloads: `ILLADA_CACHE_GB`, else 100 GB or half of the disk, whichever is less.

    Raises:
        ValueError: the variable is not a positive number.
    """
    given = os.environ.get("ILLADA_CACHE_GB")
    if given is None:
        return min(_DEFAULT_BYTES, shutil.disk_usage(cache_root()).total // 2)
    try:
        bound = float(given)
    except ValueError:
        bound = 0.0
    if not 0 < bound < float("inf"):
        raise ValueError(f"ILLADA_CACHE_GB={given}: must be a positive number of gigabytes")
    return int(bound * 1e9)


def cached(name: str, version: str, size: Callable[[], int], download: Callable[[Path], None]) -> Path:
    """The file kept under `name` in this `version`, a checksum say; otherwise `download` is called with a private path.

    `download` raises when what has arrived is not what it should be; nothing is kept then. Of several processes that
    want the same file at once one downloads it. `size` is asked for before, to make room.
    """
    path = cache_root() / "files" / name
    if _use(path, version):
        return path
    for folder in (path.parent, _note(path).parent):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(_note(path).with_suffix(".lock")):
        if _use(path, version):
            return path
        _make_room(size())
        with atomic_path(path) as temporary:
            download(temporary)
            _note(path).unlink(missing_ok=True)
        write_text(_note(path), version)
    return path


def remembered(key: str, compute: Callable[[], str]) -> str:
    """The text that `compute` gave for `key`, on this node, whenever it was asked last."""
    path = cache_root() / "remembered" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    text = compute()
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty private folder on this node, gone at the end of the block or, should this process be killed, later."""
    root = cache_root() / "scratch"
    root.mkdir(exist_ok=True)
    _remove_abandoned(root)
    folder = root / uuid.uuid4().hex[:16]
    with _locked(folder.with_suffix(".lock")):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _use(path: Path, version: str) -> bool:
    """Whether the file is there in this version, which is then its latest use."""
    try:
        if _note(path).read_text(encoding="utf-8") != version:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _note(path: Path) -> Path:
    """Where the version of a kept file is noted: not beside it, as the files of a folder are used as a folder."""
    root = cache_root()
    return root / "versions" / f"{path.relative_to(root / 'files')}.version"


def _make_room(size: int) -> None:
    global _since_measured
    with _lock:
        bound = cache_bytes()
        _since_measured += size
        if _since_measured * _CHECKS_PER_BOUND < bound:
            return
        _since_measured = 0
        _evict(cache_root() / "files", bound - size)


def _evict(root: Path, bound: int) -> None:
    """Remove the least recently used files until the rest is within `bound`."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                path = Path(folder, name)
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
    excess = sum(size for _, size, _ in found) - bound
    for used, size, path in sorted(found):
        if excess <= 0 or used > time.time() - _RECENT_SECONDS:
            return
        _note(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        excess -= size


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that exists only while somebody holds or wants it."""
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), path):
                continue  # removed by its last holder meanwhile
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(root: Path) -> None:
    for path in root.glob("*.lock"):
        with contextlib.suppress(OSError), path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file.fileno(), path):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
