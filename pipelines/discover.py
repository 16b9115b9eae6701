"""Stage `discover`: what is new in a corpus's sources since its last snapshot, found once and then kept.

The result is `discovery.json`: the snapshot it starts from and the new files of each source. A file that a snapshot has
taken must still be what it was: the same name with another content is refused, as nobody could tell any more what the
corpus consists of. Local files are compared by content, but those whose size and time of modification are as they were
at the last refresh (`seen.parquet`) are not read again; other files are compared by what their server says of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import Artifact, Attempt, Progress, Store, atomic_path, sha256_file, write_json
from illada.config import ConfigError
from illada.config.refresh import GrowingSource, RefreshConfig
from illada.data.corpora import latest, seen_before
from illada.data.snapshots import SourceFile
from pipelines.sources.growing import Listed, list_growing

DISCOVER_VERSION = 1
DISCOVERY = "discovery.json"
SEEN = "seen.parquet"
_THREADS = 8
_SEEN = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "name", "url", "version", "sha256")),
        ("bytes", pa.int64()),
    ]
)


def discover(config: RefreshConfig, store: Store, attempt: Attempt, *, progress: Progress) -> dict[str, Any]:
    """List the sources and compare them with the newest snapshot of the corpus.

    Returns {"previous": number or None, "files", "bytes" (of what is new), "known"}.

    Raises:
        ConfigError: a source cannot be listed, a file changed under its name, or the configuration is not the corpus's.
    """
    previous = latest(store, config.corpus)
    if previous is not None and (fault := previous.unlike(config.fixed())):
        raise ConfigError(
            f"corpus {config.corpus!r}: {fault}; these are fixed by its first snapshot: restore them, or start another "
            "corpus"
        )
    known = {} if previous is None else {(file.source, file.name): file for file in previous.sources()}
    states = {} if previous is None else read_seen(seen_before(store, previous))
    progress.start(len(config.sources), "sources")
    new: dict[str, list[dict[str, Any]]] = {}
    seen: list[dict[str, Any]] = []
    for number, source in enumerate(config.sources):
        progress.update(number, listing=source.name)
        listed = list_growing(source)
        checksums = _checksums(source, listed, states)
        new[source.name] = [
            {**asdict(file), "sha256": checksums[file.name]}
            for file in listed
            if _is_new(source, file, checksums[file.name], known.get((source.name, file.name)))
        ]
        seen += [{"source": source.name, **asdict(file), "sha256": checksums[file.name]} for file in listed]
    progress.update(len(config.sources))
    _write_seen(attempt.output / SEEN, seen)
    value = {
        "corpus": config.corpus,
        "number": 1 if previous is None else previous.number + 1,
        "previous": None if previous is None else previous.artifact.fingerprint,
        "new": new,
    }
    write_json(attempt.output / DISCOVERY, value)
    taken = [file for files in new.values() for file in files]
    return {
        "previous": None if previous is None else previous.number,
        "files": len(taken),
        "bytes": sum(file["bytes"] for file in taken),
        "known": len(seen) - len(taken),
    }


def _is_new(source: GrowingSource, file: Listed, sha256: str | None, known: SourceFile | None) -> bool:
    if known is None:
        return True
    was = f"{known.bytes} bytes, {known.sha256 if file.local else known.version or known.sha256}"
    now = f"{file.bytes} bytes, {sha256 if file.local else file.version or known.sha256}"
    if was != now:
        raise ConfigError(
            f"source {source.name!r}: {file.name} changed since snapshot {known.snapshot} took it (then {was}; now "
            f"{now}); put the old content back and add the new one under another name"
        )
    return False


def _checksums(
    source: GrowingSource, listed: Sequence[Listed], states: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, str | None]:
    """sha256 of every local file; those of remote ones are known once they are copied."""

    def checksum(file: Listed) -> str | None:
        if not file.local:
            return None
        state = states.get((source.name, file.name))
        if state is not None and (state["bytes"], state["version"]) == (file.bytes, file.version):
            return str(state["sha256"])
        return sha256_file(Path(file.url))

    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip((file.name for file in listed), threads.map(checksum, listed), strict=True))


def _write_seen(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SEEN), temporary, compression="zstd")


def read_seen(discovery: Artifact) -> dict[tuple[str, str], dict[str, Any]]:
    """Every file that a discovery saw, by source and name."""
    rows = pq.read_table(discovery.path(SEEN)).to_pylist()
    return {(row["source"], row["name"]): row for row in rows}
