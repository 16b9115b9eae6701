"""A folder that other processes and nodes see too: on a file system, or in an object store under a URL.

What a process works on is always a local `Path`; a `Folder` is where the result is kept and how others find it. Its
methods are the few operations that both kinds of store do atomically. A folder is only its URL, so it is cheap to make
and to send; names are relative, with `/` between their parts, and cannot leave the folder.
"""

from __future__ import annotations

import abc
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from illada.artifacts.files import atomic_path, sync

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")


class ArtifactError(ValueError):
    """A store or a stored artifact is damaged, unreadable or was written by a newer version; says which file."""


@dataclass(frozen=True, slots=True)
class Folder(abc.ABC):
    """`url` is an absolute path or `s3://bucket/prefix`, without a slash at its end. See `Folder.at`."""

    url: str

    @staticmethod
    def at(location: str | Path | Folder) -> Folder:
        """The folder at a path or URL; it need not exist.

        Raises:
            ValueError: a URL of a kind that is not supported.
        """
        if isinstance(location, Folder):
            return location
        if not is_url(location):
            return LocalFolder(str(Path(location).resolve()))
        from illada.artifacts.objects import ObjectFolder

        return ObjectFolder.at_url(str(location))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.url}/{checked_name(name)}")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path | None:
        """Where it is on the file system; None in an object store."""
        return None

    def read_text(self, name: str) -> str:
        """A file's UTF-8 text. Raises FileNotFoundError."""
        return self.read_bytes(name).decode()

    def read_json(self, name: str) -> Any:
        """A file's parsed JSON. Raises FileNotFoundError, or ValueError for what is not JSON."""
        return json.loads(self.read_bytes(name))

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file by indented JSON atomically."""
        self.write(name, json_bytes(value))

    @abc.abstractmethod
    def check(self) -> None:
        """Raise ArtifactError, with the cause, unless files can be created here, each by one of several at once."""

    @abc.abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """A file opened for reading a part of it, without fetching the rest. Raises FileNotFoundError."""

    @abc.abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""

    @abc.abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Replace a file atomically."""

    @abc.abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; of any number of callers at once exactly one gets True."""

    @abc.abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abc.abstractmethod
    def names(self, prefix: str = "") -> dict[str, int]:
        """Size in bytes of every file, however deep, whose name starts with `prefix`, in the order of names."""

    @abc.abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; nothing happens when there is none."""

    @abc.abstractmethod
    def delete_tree(self) -> None:
        """Remove the folder and everything in it; nothing happens when there is none."""

    @abc.abstractmethod
    def put(self, local: Path, name: str, sha256: str | None = None) -> None:
        """Make a finished local file the folder's file `name`; it must not be changed afterwards.

        `sha256` spares hashing it again.
        """

    @abc.abstractmethod
    def copy(self, source: Folder, name: str, target: str) -> tuple[int, str | None]:
        """Make file `name` of `source`, a folder of the same store, this folder's `target` without moving its bytes.

        Returns:
            Its size, and its sha256 where that is known.
        """

    @abc.abstractmethod
    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """A local path of a file: the file itself, or a download in this node's cache, checked against `sha256`.

        Raises:
            FileNotFoundError: there is no such file.
            ArtifactError: what arrives is not what `sha256` says.
        """

    @abc.abstractmethod
    def append_line(self, name: str, line: str, part: str = "") -> str:
        """Add a line, or several, to a file that several processes add to.

        In an object store every call makes an object. With `part`, what an earlier call returned, the lines replace
        that call's; on files they are added.
        """

    @abc.abstractmethod
    def read_lines(self, name: str) -> list[str]:
        """The complete lines of such a file, in the order they were added; none when there is no file."""

    @abc.abstractmethod
    def replace_lines(self, name: str, lines: Sequence[str]) -> None:
        """Make `lines` all there is in such a file."""


class LocalFolder(Folder):
    """A folder of a file system, perhaps one that several nodes share."""

    __slots__ = ()

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.url)

    def check(self) -> None:
        probe = f".probe-{os.urandom(6).hex()}"
        try:
            self.write(probe, b"")
            self.delete(probe)
        except OSError as error:
            raise ArtifactError(f"{self}: cannot be written ({error.strerror}); name another placement.store") from None

    def open(self, name: str) -> IO[bytes]:
        return self._file(name).open("rb")

    def read_bytes(self, name: str) -> bytes:
        return self._file(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with atomic_path(self._file(name)) as temporary:
            temporary.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        path = self._file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
        draft.write_bytes(data)
        try:
            sync(draft)
            os.link(draft, path)
            sync(path.parent)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def exists(self, name: str) -> bool:
        return self._file(name).is_file()

    def names(self, prefix: str = "") -> dict[str, int]:
        root = os.path.join(self.url, prefix.rpartition("/")[0])  # noqa: PTH118
        found: dict[str, int] = {}
        waiting = [root]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        name = entry.path[len(self.url) + 1 :].replace("//", "/")
                        if entry.is_dir():
                            waiting.append(entry.path)
                        elif name.startswith(prefix) and not (entry.name[0] == "." and entry.name.endswith(".tmp")):
                            found[name] = entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
        return dict(sorted(found.items()))

    def folders(self) -> list[str]:
        try:
            with os.scandir(self.url) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def delete_tree(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def put(self, local: Path, name: str, sha256: str | None = None) -> None:
        path = self._file(name)
        if local == path:
            return
        with atomic_path(path) as temporary:
            link_or_copy(local, temporary)

    def copy(self, source: Folder, name: str, target: str) -> tuple[int, str | None]:
        assert isinstance(source, LocalFolder), f"{source} is on another store than {self}"
        path = self._file(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source._file(name), path)
        return path.stat().st_size, None

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        path = self._file(name)
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return path

    def append_line(self, name: str, line: str, part: str = "") -> str:
        path = self._file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())  # one short append, which a local file system does not split
        finally:
            os.close(descriptor)
        return ""

    def read_lines(self, name: str) -> list[str]:
        try:
            text = self.read_text(name)
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def replace_lines(self, name: str, lines: Sequence[str]) -> None:
        self.write(name, "".join(f"{line}\n" for line in lines).encode())

    def _file(self, name: str) -> Path:
        return Path(self.url) / checked_name(name)


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL and not a path."""
    return isinstance(location, str) and _URL.match(location) is not None


def checked_name(name: str) -> str:
    """`name`, unless it would lead out of its folder: ValueError."""
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file inside a folder")
    return name


def json_bytes(value: Any) -> bytes:
    """Indented JSON with sorted keys, as every JSON file of a store is written."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where both are on one file system, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
