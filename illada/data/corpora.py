"""Corpora: which artifact is the snapshot of which number.

`<store>/corpora/<corpus>/<number>.json` makes an artifact the corpus's snapshot of that number. It is created once: of
two refreshes that race for a number one wins, and the other starts over from there.
"""

from __future__ import annotations

import json
import re
from typing import Any

from illada.artifacts import Artifact, ArtifactError, Folder, Store
from illada.data.snapshots import STAGE, Snapshot, read_snapshot

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def publish(snapshot: Snapshot, discovery: Artifact) -> bool:
    """Make it the corpus's snapshot of its number. False when another one is."""
    value = {
        "corpus": snapshot.corpus,
        "number": snapshot.number,
        "snapshot": snapshot.fingerprint,
        "discovery": discovery.fingerprint,
    }
    folder = _folder(snapshot.store, snapshot.corpus)
    created = folder.create(f"{snapshot.number}.json", json.dumps(value, indent=1).encode() + b"\n")
    return created or _published(snapshot.store, snapshot.corpus, snapshot.number)["snapshot"] == snapshot.fingerprint


def numbers(store: Store, corpus: str) -> list[int]:
    """Numbers of the published snapshots of a corpus, ascending."""
    names = _folder(store, corpus).names()
    return sorted(int(name.removesuffix(".json")) for name in names if re.fullmatch(r"[0-9]+\.json", name))


def latest(store: Store, corpus: str) -> Snapshot | None:
    """The newest snapshot of a corpus, None when it has none."""
    published = numbers(store, corpus)
    return open_snapshot(store, corpus, published[-1]) if published else None


def open_snapshot(store: Store, corpus: str, number: int) -> Snapshot:
    """A published snapshot. Raises ArtifactError naming those that there are."""
    known = numbers(store, corpus)
    if number not in known:
        have = f"it has {known[0]} to {known[-1]}" if known else f"the store {store.root} has no such corpus"
        raise ArtifactError(f"corpus {corpus!r} has no snapshot {number}: {have}")
    entry = _published(store, corpus, number)
    return read_snapshot(store, store.open(STAGE, entry["snapshot"]))


def seen_before(store: Store, snapshot: Snapshot) -> Artifact:
    """The discovery that a published snapshot was made after."""
    return store.open("discover", _published(store, snapshot.corpus, snapshot.number)["discovery"])


def resolve(store: Store, name: str) -> Snapshot:
    """A snapshot by what people call it: corpus@number, corpus (its newest), 8 or more digits of its fingerprint.

    The location of its artifact, in this store or another, does too.

    Raises:
        ArtifactError: there is none, or a fingerprint stands for several.
    """
    if f"/{STAGE}/" in name:
        root, _, folder = name.rstrip("/").rpartition(f"/{STAGE}/")
        return resolve(Store(root), folder)
    corpus, at, number = name.partition("@")
    if at:
        if not number.isdecimal():
            raise ArtifactError(f"{name!r}: write corpus@number")
        return open_snapshot(store, corpus, int(number))
    found = latest(store, name) if _NAME.fullmatch(name) else None
    if found is not None:
        return found
    if re.fullmatch(r"[0-9a-f]{8,64}", name):
        folders = sorted({file.partition("/")[0] for file in (store.root / STAGE).names(name[:32])})
        if len(folders) == 1:
            return read_snapshot(store, store.open(STAGE, folders[0]))
        if folders:
            raise ArtifactError(f"{name}: {len(folders)} snapshots of {store.root} begin with these digits")
    known = sorted({file.partition("/")[0] for file in (store.root / "corpora").names()})
    raise ArtifactError(f"no snapshot {name!r} in {store.root}; corpora: {', '.join(known) or 'none'}")


def _folder(store: Store, corpus: str) -> Folder:
    if not _NAME.fullmatch(corpus):
        raise ArtifactError(f"{corpus!r} is not the name of a corpus")
    return store.root / "corpora" / corpus


def _published(store: Store, corpus: str, number: int) -> dict[str, Any]:
    entry: dict[str, Any] = _folder(store, corpus).read_json(f"{number}.json")
    return entry
