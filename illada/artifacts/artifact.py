"""A published stage output, and the attempt that makes one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self, TypeVar

from illada.artifacts.cache import scratch_folder
from illada.artifacts.files import sha256_file, sync
from illada.artifacts.fingerprint import StageIdentity, fingerprint
from illada.artifacts.folder import ArtifactError, Folder, link_or_copy

T = TypeVar("T")
R = TypeVar("R")

_TRANSFERS = 8  # files on their way at once
_SHOWN = 20  # names in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A published stage output. `record` is the parsed record.json; files are looked up by their logical name."""

    root: Folder
    record: Mapping[str, Any]
    _files: dict[str, Mapping[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Files by name: a stage may ask for each of 100,000."""
        object.__setattr__(self, "_files", {file["name"]: file for file in self.record["files"]})

    @property
    def stage(self) -> str:
        """Name of the stage that built it."""
        return str(self.record["stage"])

    @property
    def fingerprint(self) -> str:
        """Identity: what the output is a function of."""
        return str(self.record["fingerprint"])

    @property
    def content(self) -> str:
        """Digest of the output itself (names, sizes, checksums): what a consumer of *external* data depends on."""
        return fingerprint({file["name"]: [file["bytes"], file["sha256"]] for file in self.record["files"]})

    @property
    def statistics(self) -> Mapping[str, Any]:
        """What the build returned."""
        statistics: Mapping[str, Any] = self.record["statistics"]
        return statistics

    @property
    def names(self) -> list[str]:
        """Logical names of all files, sorted."""
        return sorted(self._files)

    @property
    def location(self) -> Folder:
        """The folder that holds the files under their logical names, for whoever is on another node."""
        return self.root / str(self.record["attempt"])

    def path(self, name: str) -> Path:
        """A local path of the file called `name`, fetched if need be. Raises ArtifactError when there is none."""
        if name in self._files:
            return self._fetch(self._files[name])
        names, more = self.names[:_SHOWN], len(self._files) - _SHOWN
        raise ArtifactError(
            f"artifact {self.stage}/{self.fingerprint[:12]} has no file {name!r}; it has {names}"
            + (f" and {more} more" if more > 0 else "")
        )

    def local(self, prefix: str = "") -> Path:
        """A local folder with the files under the folder `prefix`, fetched if need be: for what reads whole folders."""
        if self.location.path is not None:
            return self.location.path / prefix
        files = [file for file in self.record["files"] if not prefix or str(file["name"]).startswith(f"{prefix}/")]
        if not files:
            raise ArtifactError(f"artifact {self.stage}/{self.fingerprint[:12]} has no files under {prefix!r}")
        path = transfer(self._fetch, files)[0]
        return path.parents[len(PurePosixPath(files[0]["name"]).parts) - 1] / prefix

    def verify(self, checksums: bool = True) -> None:
        """Check every file's presence and size, and (by default) its sha256 where that needs no download.

        Raises:
            ArtifactError: naming the first bad file. What comes from an object store is checked when it is fetched.
        """
        location = self.location
        sizes = location.names() if location.path is None else None
        for file in self.record["files"]:
            name, where = file["name"], f"{location}/{file['name']}"
            size = _size(Path(where)) if sizes is None else sizes.get(name)
            if size is None:
                raise ArtifactError(
                    f"{where}: missing from artifact {self.stage}/{self.fingerprint[:12]}; {self._cure()}"
                )
            if size != file["bytes"]:
                raise ArtifactError(f"{where}: {size} bytes, its record says {file['bytes']}; {self._cure()}")
            if checksums and sizes is None and sha256_file(Path(where)) != file["sha256"]:
                raise ArtifactError(f"{where}: its sha256 differs from its record; {self._cure()}")

    def _fetch(self, file: Mapping[str, Any]) -> Path:
        location = self.location
        if location.path is not None:
            return location.path / file["name"]
        try:
            return location.fetch(file["name"], file["sha256"])
        except FileNotFoundError:
            raise ArtifactError(
                f"{location}/{file['name']}: missing from artifact {self.stage}/{self.fingerprint[:12]}; {self._cure()}"
            ) from None
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {self._cure()}") from None

    def _cure(self) -> str:
        return f"delete {self.root} and run again to rebuild it"


class DamagedWork(ArtifactError):
    """A file of an unfinished stage is not as it was written. It is removed: trying again makes it anew."""

    @classmethod
    def removed(cls, folder: Folder, name: str) -> Self:
        """Remove the file; returns the error that says so."""
        folder.delete(name)
        return cls(
            f"{folder}/{name}: was missing or its sha256 had changed since it was written; resume to make it again"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at building an artifact: write into `output`, keep resumable progress in `work`.

    Attributes:
        output: a local folder. In an object store it is uploaded by whoever built it, see `here`.
        work: what the next attempt goes on from, visible to every node; gone once the artifact is published.
        scratch: a local folder for what is of no use to other nodes. On files it outlives the attempt, as `work` does.
        location: where the files are published.
        epoch: fencing epoch of the builder's lease; checkpoints carry it.
    """

    identity: StageIdentity
    output: Path
    work: Folder
    scratch: Path
    location: Folder
    epoch: int = 0
    _adopted: dict[str, _Adopted] = field(default_factory=dict, repr=False)

    def adopt(self, folder: Folder, name: str, target: str, sha256: str | None = None) -> None:
        """Make a finished file of `folder`, or a folder of it, part of the output without moving its bytes.

        `folder` is of the same store: `work`, or another artifact's `location`. A crash here loses nothing. In an
        object store the file appears in the artifact, not in the local `output`: see `include`. Where `sha256` is
        given, it is the file's: publication compares what it can read without a download.
        """
        files = [name] if folder.exists(name) else list(folder.names(f"{name}/"))
        if not files:
            raise FileNotFoundError(2, "No such file or directory", f"{folder}/{name}")
        for file in files:
            final = target + file[len(name) :]
            size, known = self.location.copy(folder, file, final)
            sha256_of = sha256 or known
            if self.location.path is None and sha256_of is None:
                sha256_of = sha256_file(folder.fetch(file))
            self._adopted[final] = _Adopted(folder, file, size, sha256_of)

    def include(self, source: Path, name: str) -> None:
        """Make a finished local file, of another artifact say, part of the local `output`."""
        target = self.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, target)

    @contextlib.contextmanager
    def here(self) -> Iterator[Attempt]:
        """This attempt for a build on this node, which need not be the one it was made on: a Ray task, say.

        In an object store it has local folders of its own, and what was built is uploaded when the block ends well.
        """
        if self.location.path is not None:
            yield self
            return
        with scratch_folder() as folder:
            attempt = dataclasses.replace(self, output=folder / "output", scratch=folder / "scratch", _adopted={})
            attempt.output.mkdir()
            attempt.scratch.mkdir()
            yield attempt
            attempt.upload()

    def upload(self) -> None:
        """Bring what is in `output` to its place in the store, durably; nothing is published by that."""
        paths = sorted(self.output.rglob("*"))
        if self.location.path is not None:
            transfer(_seal, paths)
            sync(self.output)
            return
        files = [{"name": name, "bytes": file.size, "sha256": file.sha256} for name, file in self._adopted.items()]
        files += transfer(self._put, [path for path in paths if path.is_file()])
        if files:
            self._listings.write_json(f"{uuid.uuid4().hex[:12]}.json", files)

    def files(self) -> list[dict[str, Any]]:
        """Name, size and sha256 of everything uploaded and adopted, on any node, in the order of names.

        Raises:
            DamagedWork: an adopted file is not as it was written.
        """
        if self.location.path is not None:
            return transfer(self._described, self.location.names().items())
        listed: dict[str, dict[str, Any]] = {}
        for listing in self._listings.names():
            listed.update({file["name"]: file for file in self._listings.read_json(listing)})
        return [listed[name] for name in sorted(listed)]

    def discard(self) -> None:
        """Remove all traces of an attempt that has not been published."""
        self.location.delete_tree()
        self.forget_listings()

    def forget_listings(self) -> None:
        """Remove what `files` was read from."""
        self._listings.delete_tree()

    @property
    def _listings(self) -> Folder:
        return Folder.at(f"{self.location}.files")

    def _described(self, item: tuple[str, int]) -> dict[str, Any]:
        name, size = item
        sha256, adopted = sha256_file(self.output / name), self._adopted.get(name)
        if adopted is not None and adopted.sha256 not in (None, sha256):
            raise DamagedWork.removed(adopted.folder, adopted.name)
        return {"name": name, "bytes": size, "sha256": sha256}

    def _put(self, path: Path) -> dict[str, Any]:
        name, sha256 = path.relative_to(self.output).as_posix(), sha256_file(path)
        self.location.put(path, name, sha256)
        return {"name": name, "bytes": path.stat().st_size, "sha256": sha256}


def transfer(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of every item, several at once, in their order: for what waits for a network."""
    items = list(items)
    if len(items) < 2:  # most stages have few files, and threads cost more than they do
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=_TRANSFERS) as pool:
        return list(pool.map(function, items))


class _Adopted(NamedTuple):
    """Where an adopted file is from."""

    folder: Folder
    name: str
    size: int
    sha256: str | None


def _seal(path: Path) -> None:
    sync(path)
    if path.is_file():
        path.chmod(0o644)  # some writers make private files; others of the cluster read these


def _size(path: Path) -> int | None:
    return os.stat(path).st_size if path.is_file() else None  # noqa: PTH116
