"""The artifact store: content-addressed stage outputs, published once and never changed.

Layout of one artifact, under ``<store>/<stage>/<fingerprint[:32]>/``, on files and in an object store alike::

    work/           resumable scratch, kept from attempt to attempt of this fingerprint; removed on publication
    attempt-<id>/   what one attempt wrote; the winning one holds the artifact's files
    record.json     published create-if-absent: its presence *is* the artifact's existence
    retired-*.json  records of artifacts that were taken back, whose attempt folders stay
    lock            on files only, held by the process that builds: one at a time on a machine
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from illada.artifacts.artifact import Artifact, Attempt
from illada.artifacts.cache import scratch_folder
from illada.artifacts.fingerprint import StageIdentity
from illada.artifacts.folder import ArtifactError, Folder, json_bytes
from illada.artifacts.provenance import code_provenance

RECORD_VERSION = 1
_RECORD = "record.json"
_LOCK_POLL_SECONDS = 0.5


class Store:
    """A folder of artifacts. Any number of processes may use it at once."""

    def __init__(self, root: str | Path | Folder) -> None:
        self.root = Folder.at(root)

    def check(self) -> None:
        """Make sure, before any work, that artifacts can be written and published here.

        Raises:
            ArtifactError: they cannot; says why.
        """
        self.root.check()

    def find(self, identity: StageIdentity, checksums: bool = True) -> Artifact | None:
        """The published artifact of this identity, verified, or None. Raises ArtifactError when it is damaged."""
        folder = self.folder(identity.stage, identity.fingerprint)
        artifact = _open(folder)
        if artifact is None:
            return None
        if artifact.fingerprint != identity.fingerprint:
            raise ArtifactError(f"{folder}: holds artifact {artifact.fingerprint}, expected {identity.fingerprint}")
        artifact.verify(checksums)
        return artifact

    def open(self, stage: str, fingerprint: str) -> Artifact:
        """The artifact by stage name and (full or 32-digit) fingerprint, unverified. Raises ArtifactError if absent."""
        folder = self.folder(stage, fingerprint)
        artifact = _open(folder)
        if artifact is None:
            raise ArtifactError(f"{folder}: no such artifact")
        return artifact

    def folder(self, stage: str, fingerprint: str) -> Folder:
        """Where the artifact is, or would be."""
        return self.root / stage / fingerprint[:32]

    def find_digest(self, digest: str, name: str = "") -> Artifact | None:
        """The artifact of this fingerprint, or of this content, unverified; None when there is none.

        Content is how external data is referred to; it is looked for in stages called `name` or `acquire-<name>`.
        """
        for stage in self.root.folders():
            if (artifact := _open(self.folder(stage, digest))) is not None:
                return artifact
        for stage in (name, f"acquire-{name}") if name else ():
            for artifact in self.artifacts(stage):
                if artifact.content == digest:
                    return artifact
        return None

    def require(self, digest: str, name: str) -> Artifact:
        """The artifact that is input `name` of another, see `find_digest`. Raises ArtifactError when there is none."""
        artifact = self.find_digest(digest, name)
        if artifact is None:
            raise ArtifactError(f"{self.root}: has no artifact {digest[:12]}, which is the {name} of another")
        return artifact

    def artifacts(self, stage: str) -> list[Artifact]:
        """Every published artifact of a stage, unverified."""
        found = (_open(self.root / stage / name) for name in (self.root / stage).folders())
        return [artifact for artifact in found if artifact is not None]

    @contextlib.contextmanager
    def attempt(
        self,
        identity: StageIdentity,
        epoch: int = 0,
        on_wait: Callable[[], None] | None = None,
        alone: bool = False,
    ) -> Iterator[Attempt]:
        """A private attempt; what it wrote is removed when the block ends without publishing. `work` stays.

        On files, another process of this machine that builds the same artifact is waited for, calling `on_wait` twice
        a second (it may raise): look with `find` first thing in the block, the artifact may exist by then. `alone`
        says that the caller has made sure by other means that nobody else builds it.
        """
        folder = self.folder(identity.stage, identity.fingerprint)
        with contextlib.ExitStack() as held:
            location, work = folder / f"attempt-{uuid.uuid4().hex[:12]}", folder / "work"
            if folder.path is not None:
                folder.path.mkdir(parents=True, exist_ok=True)
                alone |= held.enter_context(_only_builder(folder.path / "lock", on_wait))
                output = scratch = None
            else:
                scratch_root = held.enter_context(scratch_folder())
                output, scratch = scratch_root / "output", scratch_root / "scratch"
            if alone:
                _remove_abandoned(folder, keep=_winner(folder))
            attempt = Attempt(
                identity=identity,
                output=output or Path(location.url),
                work=work,
                scratch=scratch or Path(work.url),
                location=location,
                epoch=epoch,
            )
            attempt.output.mkdir(parents=True)
            attempt.scratch.mkdir(exist_ok=True)
            try:
                yield attempt
            finally:
                if _winner(folder) != location.name:
                    attempt.discard()

    def publish(
        self, attempt: Attempt, statistics: Mapping[str, Any], placement: Mapping[str, Any], started: float
    ) -> Artifact:
        """Publish what `attempt` wrote; the first attempt to publish wins and every other gets the winner's artifact.

        `started` is the build's start in seconds since the epoch; `placement` is kept for provenance only.

        Raises:
            DamagedWork: an adopted file is not as it was written.
        """
        identity = attempt.identity
        folder = self.folder(identity.stage, identity.fingerprint)
        attempt.upload()
        record = {
            "record_version": RECORD_VERSION,
            "stage": identity.stage,
            "version": identity.version,
            "fingerprint": identity.fingerprint,
            "config": identity.config,
            "inputs": identity.inputs,
            "attempt": attempt.location.name,
            "epoch": attempt.epoch,
            "files": attempt.files(),
            "statistics": statistics,
            "placement": placement,
            "started": started,
            "seconds": time.time() - started,
            "provenance": code_provenance(),
        }
        folder.create(_RECORD, json_bytes(record))  # if another attempt was first, ours is removed with its block
        artifact = _open(folder)
        assert artifact is not None, f"{folder}: its record has vanished"
        if artifact.location == attempt.location:
            attempt.forget_listings()
            attempt.work.delete_tree()
        return artifact

    def retire(self, stage: str, fingerprint: str) -> bool:
        """Take an artifact back, with what an unfinished build of it has done, so that it is built again.

        Its record goes to another name and its files stay where they are: readers of them are not disturbed. Returns
        whether there was an artifact, damaged or not.

        Raises:
            ArtifactError: another process of this machine is building it.
        """
        folder = self.folder(stage, fingerprint)

        def busy() -> None:
            raise ArtifactError(f"{folder}: is being built by another run; cancel that one first")

        with contextlib.ExitStack() as held:
            if folder.path is not None:
                if not folder.path.is_dir():
                    return False
                held.enter_context(_only_builder(folder.path / "lock", busy))
            try:
                record = folder.read_bytes(_RECORD)
            except FileNotFoundError:
                found = False
            else:
                found = True
                folder.create(f"retired-{hashlib.sha256(record).hexdigest()[:12]}.json", record)
                folder.delete(_RECORD)
            (folder / "work").delete_tree()
        return found


def _open(folder: Folder) -> Artifact | None:
    where = f"{folder}/{_RECORD}"
    try:
        record = folder.read_json(_RECORD)
        newer = record["record_version"] > RECORD_VERSION
        missing = {"stage", "fingerprint", "attempt", "files", "statistics"} - set(record)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where}: is not a readable artifact record ({type(error).__name__}: {error})") from None
    if not newer and missing:
        raise ArtifactError(f"{where}: is not an artifact record, it has no {', '.join(sorted(missing))}")
    if newer:
        raise ArtifactError(
            f"{where}: written by a newer illada (record version {record['record_version']}); upgrade to read it"
        )
    return Artifact(root=folder, record=record)


def _winner(folder: Folder) -> str | None:
    """The folder name of the published attempt, if there is one."""
    artifact = _open(folder)
    return None if artifact is None else artifact.location.name


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


def _remove_abandoned(folder: Folder, keep: str | None) -> None:
    """What killed builders left behind; the caller is the only builder."""
    if folder.path is not None:
        attempts = {path.name for path in folder.path.glob("attempt-*")}
        retired = [path.name for path in folder.path.glob("retired-*.json")]
        for draft in folder.path.glob(".*.tmp"):
            draft.unlink(missing_ok=True)
    else:
        attempts = {name.partition("/")[0] for name in folder.names("attempt-")}
        retired = list(folder.names("retired-"))
    kept = {keep}
    for name in retired:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged record keeps nothing
            kept.add(folder.read_json(name)["attempt"])
    for attempt in attempts - kept:
        (folder / attempt).delete_tree()
