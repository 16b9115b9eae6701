"""Checkpoint folders: written aside, published by rename, verified by checksum, fenced by the driver's epoch.

    <work>/epoch.json                     the newest driver's fencing epoch; an older one finds it and stops
    <work>/checkpoints/.tmp-step-...      being written; whatever is found in one later is garbage
    <work>/checkpoints/step-00000300/     published: the tensors' files and, written last, checkpoint.json
    <work>/checkpoints/.bad-step-...      one whose checksums failed, kept for inspection until the stage ends

`checkpoint.json` is the manifest: format version, step, loader state, model, layout, fencing epoch, and size and sha256
of every other file. Nothing here knows tensors (`state` does), so the driver can ask for the latest checkpoint cheaply.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.artifacts import sha256_file, write_json
from illada.config import ModelConfig
from illada.train.events import append_event

FORMAT = 1
MANIFEST = "checkpoint.json"
FOLDER = "checkpoints"
_EPOCH = "epoch.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; says which file and why."""


class StaleDriverError(ValueError):
    """Another driver with a newer lease owns this stage: the only right thing to do is to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latest:
    """What was found: the newest good checkpoint (or None), and the newer ones that were not good, with the reason."""

    path: Path | None
    manifest: Mapping[str, Any]
    rejected: list[str]

    @property
    def step(self) -> int:
        """Updates already made; 0 without a checkpoint."""
        return int(self.manifest["step"]) if self.path else 0


def claim(work: Path, epoch: int) -> None:
    """Make `epoch` the one that may publish. Raises StaleDriverError when a newer driver has been here."""
    if (work / _EPOCH).exists():
        check_fence(work, epoch)
    write_json(work / _EPOCH, {"epoch": epoch})


def check_fence(work: Path, epoch: int) -> None:
    """Raises StaleDriverError unless `epoch` is still the newest and the stage unpublished. Cheap: one small file."""
    try:
        newest = int(json.loads((work / _EPOCH).read_text(encoding="utf-8"))["epoch"])
    except FileNotFoundError:
        raise StaleDriverError(f"{work}: the stage has been published by another driver") from None
    if newest > epoch:
        raise StaleDriverError(f"{work}: a driver with fencing epoch {newest} has taken over from this one ({epoch})")


def begin(folder: Path, step: int) -> Path:
    """An empty private folder to write the checkpoint of `step` in; removes what unfinished writes left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob(".tmp-*"), *folder.glob(".old-*")]:
        shutil.rmtree(stale)
    draft = folder / f".tmp-{_name(step)}"
    draft.mkdir()
    return draft


def publish(draft: Path, manifest: Mapping[str, Any], checksums: Mapping[str, str], keep: int) -> Path:
    """Make `draft` the checkpoint of `manifest["step"]`, in one rename, then remove all but the newest `keep`.

    Args:
        draft: from `begin`, with all files written and on disk.
        manifest: step, loader, model, layout and epoch.
        checksums: sha256 by name of the files already hashed and synced, each by its rank; others are so here.
        keep: published checkpoints to leave.

    Raises:
        StaleDriverError: a newer driver owns the stage, or has published this step.
    """
    work = draft.parent.parent
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": checksums.get(path.name) or sha256_file(path)}
        for path in sorted(draft.iterdir())
    }
    for name in files.keys() - checksums.keys():
        sync_path(draft / name)
    write_json(draft / MANIFEST, {"format": FORMAT, **manifest, "files": files})
    sync_path(draft)
    check_fence(work, int(manifest["epoch"]))
    target = draft.with_name(_name(int(manifest["step"])))
    try:
        draft.rename(target)
    except OSError as error:
        if target.exists():
            raise StaleDriverError(f"{target}: another driver has published this checkpoint") from error
        raise
    sync_path(draft.parent)
    for old in published(draft.parent)[:-keep]:
        doomed = old.with_name(f".old-{old.name}")
        old.rename(doomed)
        shutil.rmtree(doomed)
    return target


def published(folder: Path) -> list[Path]:
    """Published checkpoint folders, oldest first."""
    return sorted(folder.glob("step-*"))


def latest(folder: Path, epoch: int) -> Latest:
    """The newest checkpoint whose checksums verify. Newer ones that do not are moved aside and named in `rejected`.

    Raises:
        StaleDriverError: a checkpoint carries a newer fencing epoch than `epoch`.
        CheckpointError: a checkpoint was written by a newer illada.
    """
    rejected = []
    for path in reversed(published(folder)):
        try:
            manifest = verify(path)
        except FileNotFoundError as error:
            rejected.append(f"{error.filename} is missing")
        except _DamagedError as error:
            rejected.append(str(error))
        else:
            if manifest["epoch"] > epoch:
                raise StaleDriverError(
                    f"{path}: written under fencing epoch {manifest['epoch']}, newer than this driver's {epoch}"
                )
            return Latest(path=path, manifest=manifest, rejected=rejected)
        aside = path.with_name(f".bad-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return Latest(path=None, manifest={}, rejected=rejected)


def find(work: Path, epoch: int) -> Latest:
    """The checkpoint a stage goes on from, as `latest`; what was rejected becomes a `fallback` event."""
    found = latest(work / FOLDER, epoch)
    for reason in found.rejected:
        append_event(work, "fallback", step=found.step, reason=reason)
    return found


def require_model(path: Path, model: ModelConfig) -> None:
    """Raises CheckpointError unless the checkpoint in `path` is of this architecture."""
    theirs = read_manifest(path)["model"]
    mine = model.identity()
    different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if different:
        details = "; ".join(f"{name}: {theirs.get(name)} there, {mine.get(name)} here" for name in different)
        raise CheckpointError(f"{path}: is a checkpoint of another model ({details})")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder. Raises CheckpointError when it is unreadable or of a newer format."""
    file = path / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{file}: is not a readable manifest ({error})") from None
    if version > FORMAT:
        raise CheckpointError(f"{file}: written by a newer illada (checkpoint format {version}); upgrade to read it")
    return manifest


def verify(path: Path) -> dict[str, Any]:
    """The manifest, after checking presence, size and sha256 of every file; CheckpointError names a bad file."""
    manifest = read_manifest(path)
    for name, file in manifest["files"].items():
        size = (path / name).stat().st_size
        if size != file["bytes"]:
            raise _DamagedError(f"{path / name}: {size} bytes, the manifest says {file['bytes']}")
        if sha256_file(path / name) != file["sha256"]:
            raise _DamagedError(f"{path / name}: its sha256 differs from the manifest's")
    return manifest


class _DamagedError(CheckpointError):
    """Bytes that are not what was written: an older checkpoint may still be good."""


def _name(step: int) -> str:
    return f"step-{step:08d}"


def sync_path(path: Path) -> None:
    """Make a file, or the names in a folder, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
