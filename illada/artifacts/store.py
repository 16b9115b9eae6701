"""The artifact store: content-addressed stage outputs, published once and never changed.

Layout of one artifact, under ``<store>/<stage>/<fingerprint[:32]>/``::

    work/           resumable scratch, kept from attempt to attempt of this fingerprint; removed on publication
    attempt-<id>/   a private folder for one attempt; the winning one holds the artifact's files
    lock            held by the process that builds: one at a time on a machine, so that `work` has one writer
    record.json     published create-if-absent (a hard link): its presence *is* the artifact's existence
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from illada.artifacts.files import sha256_file, sync, write_json
from illada.artifacts.fingerprint import StageIdentity, fingerprint
from illada.artifacts.provenance import code_provenance

RECORD_VERSION = 1
_LOCK_POLL_SECONDS = 0.5
_SEALING_THREADS = 8  # files written to disk and hashed at once


class ArtifactError(ValueError):
    """A stored artifact is damaged, unreadable or was written by a newer version; says which file."""


class DamagedWork(ArtifactError):
    """A file of an unfinished stage is not as it was written. It is removed: trying again makes it anew."""

    @classmethod
    def removed(cls, path: Path) -> Self:
        """Remove the file `path`; returns the error that says so."""
        path.unlink(missing_ok=True)
        return cls(f"{path}: was missing or its sha256 had changed since it was written; resume to make it again")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A published stage output. `record` is the parsed record.json; files are looked up by their logical name."""

    root: Path
    record: Mapping[str, Any]

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
        return sorted(file["name"] for file in self.record["files"])

    @property
    def folder(self) -> Path:
        """The folder that holds the files under their logical names."""
        return self.root / str(self.record["attempt"])

    def path(self, name: str) -> Path:
        """Where the file called `name` is. Raises ArtifactError when the artifact has no such file."""
        if not any(file["name"] == name for file in self.record["files"]):
            raise ArtifactError(
                f"artifact {self.stage}/{self.fingerprint[:12]} has no file {name!r}; it has {self.names}"
            )
        return self.folder / name

    def verify(self, checksums: bool = True) -> None:
        """Check every file's presence, size and (by default) sha256. Raises ArtifactError naming the first bad file."""
        for file in self.record["files"]:
            path = self.folder / file["name"]
            if not path.is_file():
                raise ArtifactError(
                    f"{path}: missing from artifact {self.stage}/{self.fingerprint[:12]}; {self._cure()}"
                )
            size = path.stat().st_size
            if size != file["bytes"]:
                raise ArtifactError(f"{path}: {size} bytes, its record says {file['bytes']}; {self._cure()}")
            if checksums and sha256_file(path) != file["sha256"]:
                raise ArtifactError(f"{path}: its sha256 differs from its record; {self._cure()}")

    def _cure(self) -> str:
        return f"delete {self.root} and run again to rebuild it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at building an artifact: write into `output`, keep resumable progress in `work`.

    `epoch` is the fencing epoch of the driver's lease; checkpoints carry it.
    """

    identity: StageIdentity
    output: Path
    work: Path
    epoch: int = 0
    adopted: dict[str, tuple[Path, str]] = field(default_factory=dict, repr=False)

    def adopt(self, source: Path, name: str, sha256: str | None = None) -> None:
        """Make a finished file or folder of `work` part of the output, by hard links: a crash here loses nothing.

        Publication compares a file's content with `sha256`, where given.
        """
        if sha256 is not None:
            self.adopted[name] = (source, sha256)
        target = self.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            os.link(source, target)


class Store:
    """A folder of artifacts. Any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def find(self, identity: StageIdentity, checksums: bool = True) -> Artifact | None:
        """The published artifact of this identity, verified, or None. Raises ArtifactError when it is damaged."""
        folder = self._folder(identity.stage, identity.fingerprint)
        if not (folder / "record.json").exists():
            return None
        artifact = _open(folder)
        if artifact.fingerprint != identity.fingerprint:
            raise ArtifactError(f"{folder}: holds artifact {artifact.fingerprint}, expected {identity.fingerprint}")
        artifact.verify(checksums)
        return artifact

    def open(self, stage: str, fingerprint: str) -> Artifact:
        """The artifact by stage name and (full or 32-digit) fingerprint, unverified. Raises ArtifactError if absent."""
        folder = self._folder(stage, fingerprint)
        if not (folder / "record.json").exists():
            raise ArtifactError(f"{folder}: no such artifact")
        return _open(folder)

    @contextlib.contextmanager
    def attempt(
        self, identity: StageIdentity, epoch: int = 0, on_wait: Callable[[], None] | None = None
    ) -> Iterator[Attempt]:
        """A private attempt; its output folder is removed when the block ends without publishing. `work` stays.

        Another process of this machine that builds the same artifact is waited for, calling `on_wait` twice a second
        (it may raise): look with `find` first thing in the block, the artifact may exist by then.
        """
        folder = self._folder(identity.stage, identity.fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder / "lock", on_wait) as alone:
            if alone:
                _remove_abandoned(folder, keep=_winner(folder))
            output, work = folder / f"attempt-{uuid.uuid4().hex[:12]}", folder / "work"
            output.mkdir(parents=True)
            work.mkdir(exist_ok=True)
            try:
                yield Attempt(identity=identity, output=output, work=work, epoch=epoch)
            finally:
                if _winner(folder) != output.name:
                    shutil.rmtree(output, ignore_errors=True)

    def publish(
        self, attempt: Attempt, statistics: Mapping[str, Any], placement: Mapping[str, Any], started: float
    ) -> Artifact:
        """Publish what `attempt` wrote; the first attempt to publish wins and every other gets the winner's artifact.

        `started` is the build's start in seconds since the epoch; `placement` is kept for provenance only.

        Raises:
            DamagedWork: an adopted file is not as it was written.
        """
        identity, folder = attempt.identity, attempt.output.parent
        with ThreadPoolExecutor(_SEALING_THREADS) as threads:
            sealed = threads.map(partial(_sealed, attempt), sorted(attempt.output.rglob("*")))
            files = [file for file in sealed if file is not None]
        sync(attempt.output)
        record = {
            "record_version": RECORD_VERSION,
            "stage": identity.stage,
            "version": identity.version,
            "fingerprint": identity.fingerprint,
            "config": identity.config,
            "inputs": identity.inputs,
            "attempt": attempt.output.name,
            "epoch": attempt.epoch,
            "files": files,
            "statistics": statistics,
            "placement": placement,
            "started": started,
            "seconds": time.time() - started,
            "provenance": code_provenance(),
        }
        draft = attempt.output.with_suffix(".record")
        write_json(draft, record)
        try:
            os.link(draft, folder / "record.json")
            sync(folder)
        except FileExistsError:
            pass  # another attempt was first; ours is removed at the end of its block
        finally:
            draft.unlink()
        if _winner(folder) == attempt.output.name:
            shutil.rmtree(attempt.work, ignore_errors=True)
        return _open(folder)

    def _folder(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / fingerprint[:32]


def _sealed(attempt: Attempt, path: Path) -> dict[str, Any] | None:
    """The record's line of a file that was safely written to disk; None for a folder."""
    sync(path)
    if not path.is_file():
        return None
    path.chmod(0o644)  # some writers make private files; others of the cluster read these
    name, sha256 = path.relative_to(attempt.output).as_posix(), sha256_file(path)
    source, expected = attempt.adopted.get(name, (path, sha256))
    if sha256 != expected:
        raise DamagedWork.removed(source)
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256}


def _open(folder: Path) -> Artifact:
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        newer = record["record_version"] > RECORD_VERSION
        missing = {"stage", "fingerprint", "attempt", "files", "statistics"} - set(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: is not a readable artifact record ({type(error).__name__}: {error})") from None
    if not newer and missing:
        raise ArtifactError(f"{path}: is not an artifact record, it has no {', '.join(sorted(missing))}")
    if newer:
        raise ArtifactError(
            f"{path}: written by a newer illada (record version {record['record_version']}); upgrade to read it"
        )
    return Artifact(root=folder, record=record)


def _winner(folder: Path) -> str | None:
    """The folder name of the published attempt, if there is one."""
    return str(_open(folder).record["attempt"]) if (folder / "record.json").exists() else None


@contextlib.contextmanager
def _only_builder(path: Path, on_wait: Callable[[], None] | None) -> Iterator[bool]:
    """Hold the file's lock, which a killed process loses; False where the file system has no locks."""
    with path.open("w") as file:
        try:
            while not _try_lock(file.fileno()):
                if on_wait is not None:
                    on_wait()
                time.sleep(_LOCK_POLL_SECONDS)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            yield False
        else:
            yield True


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_abandoned(folder: Path, keep: str | None) -> None:
    """What killed builders left behind; the caller is the only builder."""
    for path in folder.glob("attempt-*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
