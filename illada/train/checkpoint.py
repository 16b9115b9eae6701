"""Checkpoint folders: written aside, published in one step, verified by checksum, fenced by the driver's epoch.

    <work>/epoch.json                     the newest driver's fencing epoch; an older one finds it and stops
    <work>/checkpoints/step-00000300/     published: the tensors' files and checkpoint.json
    <work>/checkpoints/.tmp-step-...      being written; whatever is found in one later is garbage
    <work>/checkpoints/.bad-step-...      one that was found damaged, kept for inspection until the stage ends

On files a checkpoint is published by renaming its folder. An object store cannot rename: there the files stay where
they were written, in `.data-step-00000300-<id>/`, and `step-00000300/checkpoint.json` is created if absent.

`checkpoint.json` is the manifest: format version, step, loader state, model, layout, fencing epoch, and size and sha256
of every other file. Nothing here knows tensors (`state` does), so the driver can ask for the latest checkpoint cheaply.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from illada.artifacts import Folder, StaleDriverError, check_fence, sha256_file, write_json
from illada.artifacts.files import sync
from illada.artifacts.folder import json_bytes
from illada.config import ModelConfig
from illada.train.events import append_event

FORMAT = 1
MANIFEST = "checkpoint.json"
FOLDER = "checkpoints"
TENSORS = ".safetensors"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; says which file and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A checkpoint: the folder of its files, and its manifest."""

    folder: Folder
    manifest: Mapping[str, Any]

    @classmethod
    def at(cls, folder: Folder) -> Self:
        """The one whose manifest lies among its files, as in a published stage. Raises CheckpointError."""
        return cls(folder=folder, manifest=read_manifest(folder))

    @property
    def name(self) -> str:
        """step-NNNNNNNN"""
        return _name(int(self.manifest["step"]))

    def fetch(self, name: str) -> Path:
        """A local path of one file. Raises ArtifactError when what arrives is not what the manifest says."""
        return self.folder.fetch(name, self.manifest["files"][name]["sha256"])

    def local(self) -> Path:
        """A local folder with all files but the tensors', which are many and large: see `fetch`."""
        if self.folder.path is not None:
            return self.folder.path
        small = [self.fetch(name) for name in self.manifest["files"] if not name.endswith(TENSORS)]
        return small[0].parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Latest:
    """What was found: the newest good checkpoint (or None), and the newer ones that were not good, with the reason."""

    stored: Stored | None
    rejected: list[str]

    @property
    def step(self) -> int:
        """Updates already made; 0 without a checkpoint."""
        return int(self.stored.manifest["step"]) if self.stored else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A checkpoint being written: local files in `path`, which belong to `folder`."""

    work: Folder
    name: str
    path: Path

    @property
    def folder(self) -> Folder:
        """Where the files are kept. On files that is `path`."""
        return self.work / FOLDER / self.name

    def put(self, name: str, sha256: str) -> dict[str, Any]:
        """Bring a written file to its place, on disk; returns its line of the manifest."""
        path = self.path / name
        if self.folder.path is None:
            self.folder.put(path, name, sha256)
        else:
            sync(path)
        return {"bytes": path.stat().st_size, "sha256": sha256}


def begin(work: Folder, step: int, scratch: Path, run: str) -> Draft:
    """A place for the checkpoint of `step`, private to `run`; removes what unfinished writes of others left behind."""
    draft, folder = join(work, step, scratch, run), work / FOLDER
    if folder.path is not None:
        for stale in {*folder.path.glob(".tmp-*"), *folder.path.glob(".old-*")} - {draft.path}:
            shutil.rmtree(stale)
        return draft
    kept = {str(folder.read_json(name)["data"]) for name in folder.names() if name.endswith(f"/{MANIFEST}")}
    for name in {name.partition("/")[0] for name in folder.names(".data-")} - kept - {draft.name}:
        (folder / name).delete_tree()
    return draft


def join(work: Folder, step: int, scratch: Path, run: str) -> Draft:
    """The same place for any rank of `run`. In an object store, files are first written to `scratch`."""
    name = f"{'.data' if work.path is None else '.tmp'}-{_name(step)}-{run}"
    local = (work / FOLDER / name).path or scratch / name
    local.mkdir(parents=True, exist_ok=True)
    return Draft(work=work, name=name, path=local)


def publish(draft: Draft, manifest: Mapping[str, Any], written: Mapping[str, Mapping[str, Any]], keep: int) -> Stored:
    """Make `draft` the checkpoint of `manifest["step"]`, in one step, then remove all but the newest `keep`.

    Args:
        draft: from `begin`.
        manifest: step, loader, model, layout and epoch.
        written: what `Draft.put` returned on other ranks, by name; the other files in `draft.path` are put here.
        keep: published checkpoints to leave.

    Raises:
        StaleDriverError: a newer driver owns the stage, or has published this step.
    """
    mine = [path for path in sorted(draft.path.iterdir()) if path.name not in written]
    files = {**written, **{path.name: draft.put(path.name, sha256_file(path)) for path in mine}}
    manifest = {"format": FORMAT, **manifest, "files": files}
    folder, name = draft.work / FOLDER, _name(int(manifest["step"]))
    if folder.path is None:
        shutil.rmtree(draft.path)
        manifest["data"] = draft.name
        check_fence(draft.work, int(manifest["epoch"]))
        fresh = folder.create(f"{name}/{MANIFEST}", json_bytes(manifest))
    else:
        write_json(draft.path / MANIFEST, manifest)
        sync(draft.path)
        check_fence(draft.work, int(manifest["epoch"]))
        fresh = _renamed(draft.path, folder.path / name)
    if not fresh:
        raise StaleDriverError(f"{folder}/{name}: another driver has published this checkpoint")
    for old in published(draft.work)[:-keep]:
        _remove(folder, old)
    return Stored(folder=_data(folder, name, manifest), manifest=manifest)


def published(work: Folder) -> list[str]:
    """Names of the published checkpoints, oldest first."""
    folder = work / FOLDER
    if folder.path is not None:
        return sorted(path.name for path in folder.path.glob("step-*"))
    return sorted(name.partition("/")[0] for name in folder.names("step-"))


def open_step(work: Folder, step: int) -> Stored:
    """The published checkpoint of a step, its files unchecked. CheckpointError when there is none, or no longer."""
    folder, name = work / FOLDER, _name(step)
    manifest = read_manifest(folder / name)
    return Stored(folder=_data(folder, name, manifest), manifest=manifest)


def latest(work: Folder, epoch: int) -> Latest:
    """The newest good checkpoint. Newer ones that are damaged are moved aside and named in `rejected`.

    On files every checksum is compared; in an object store presence and sizes are, and content when it is fetched.

    Raises:
        StaleDriverError: a checkpoint carries a newer fencing epoch than `epoch`.
        CheckpointError: a checkpoint was written by a newer illada; or there are some, all of them damaged.
    """
    folder = work / FOLDER
    damaged: dict[str, str] = {}
    for name in reversed(published(work)):
        try:
            stored = verify(folder, name)
        except _DamagedError as error:
            damaged[name] = str(error)
        else:
            if stored.manifest["epoch"] > epoch:
                raise StaleDriverError(
                    f"{folder}/{name}: written under fencing epoch {stored.manifest['epoch']}, newer than this "
                    f"driver's {epoch}"
                )
            for bad in damaged:
                _set_aside(work, bad)
            return Latest(stored=stored, rejected=list(damaged.values()))
    if damaged:
        raise _all_damaged(work, list(damaged.values()))
    return Latest(stored=None, rejected=[])


def reject(work: Folder, name: str, reason: str) -> None:
    """Make a checkpoint none that was found damaged only when it was read; any rank may call this, also several.

    Raises:
        CheckpointError: there is no other one.
    """
    if not set(published(work)) - {name}:
        raise _all_damaged(work, [reason])
    _set_aside(work, name)


def _all_damaged(work: Folder, reasons: list[str]) -> CheckpointError:
    """None is moved aside: the next attempt would take that for a stage that has none yet, and begin again."""
    return CheckpointError(
        f"{work / FOLDER}: every checkpoint is damaged ({'; '.join(reasons)}). Bring back the files of one from a "
        "copy, or remove this folder to train again from step 0"
    )


def _set_aside(work: Folder, name: str) -> None:
    """Keeps it for inspection until the stage ends."""
    folder = work / FOLDER
    if folder.path is not None:
        aside = folder.path / f".bad-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        (folder.path / name).rename(aside)
    elif folder.exists(f"{name}/{MANIFEST}"):
        folder.write(f".bad-{name}/manifest", folder.read_bytes(f"{name}/{MANIFEST}"))
        folder.delete(f"{name}/{MANIFEST}")


def find(work: Folder, epoch: int) -> Latest:
    """The checkpoint a stage goes on from, as `latest`; what was rejected becomes a `fallback` event."""
    found = latest(work, epoch)
    for reason in found.rejected:
        append_event(work, "fallback", step=found.step, reason=reason)
    return found


def require_model(stored: Stored, model: ModelConfig) -> None:
    """Raises CheckpointError unless the checkpoint is of this architecture."""
    theirs = stored.manifest["model"]
    mine = model.identity()
    different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if different:
        details = "; ".join(f"{name}: {theirs.get(name)} there, {mine.get(name)} here" for name in different)
        raise CheckpointError(f"{stored.folder}: is a checkpoint of another model ({details})")


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The manifest in a checkpoint's folder. Raises CheckpointError when it is unreadable or of a newer format."""
    file = f"{folder}/{MANIFEST}"
    try:
        manifest: dict[str, Any] = folder.read_json(MANIFEST)
        version = manifest["format"]
    except FileNotFoundError:
        raise _DamagedError(f"{file} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{file}: is not a readable manifest ({error})") from None
    if version > FORMAT:
        raise CheckpointError(f"{file}: written by a newer illada (checkpoint format {version}); upgrade to read it")
    return manifest


def verify(folder: Folder, name: str) -> Stored:
    """The checkpoint `name` of the folder of checkpoints, as `latest` checks it; CheckpointError names a bad file."""
    manifest = read_manifest(folder / name)
    data = _data(folder, name, manifest)
    sizes = data.names()
    for file, entry in manifest["files"].items():
        if file not in sizes:
            raise _DamagedError(f"{data}/{file} is missing")
        if sizes[file] != entry["bytes"]:
            raise _DamagedError(f"{data}/{file}: {sizes[file]} bytes, the manifest says {entry['bytes']}")
        if data.path is not None and sha256_file(data.path / file) != entry["sha256"]:
            raise _DamagedError(f"{data}/{file}: its sha256 differs from the manifest's")
    return Stored(folder=data, manifest=manifest)


class _DamagedError(CheckpointError):
    """Bytes that are not what was written: an older checkpoint may still be good."""


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _data(folder: Folder, name: str, manifest: Mapping[str, Any]) -> Folder:
    return folder / str(manifest.get("data", name))


def _renamed(draft: Path, target: Path) -> bool:
    try:
        draft.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    sync(target.parent)
    return True


def _remove(folder: Folder, name: str) -> None:
    if folder.path is not None:
        doomed = folder.path / f".old-{name}"
        (folder.path / name).rename(doomed)
        shutil.rmtree(doomed)
        return
    data = str(folder.read_json(f"{name}/{MANIFEST}")["data"])
    folder.delete(f"{name}/{MANIFEST}")
    (folder / data).delete_tree()
