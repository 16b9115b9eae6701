"""The user's own files: found, checked before anything starts, and listed where they are; nothing is copied.

They may be local, or in an object store or on a server that fsspec knows.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from illada.artifacts import Progress
from illada.artifacts.cache import remembered
from illada.artifacts.folder import is_url
from illada.config import ConfigError, TextFiles, WarcFiles
from pipelines.inputs import checksum
from pipelines.members import looks_like_an_archive

_CHUNK = 1 << 22
_READ_BLOCK = 1 << 18


def find_files(source: WarcFiles | TextFiles) -> list[str]:
    """Resolved paths and URLs of the source's files, pattern by pattern, each once.

    Raises:
        ConfigError: a path or pattern that names nothing, or a place that cannot be looked at.
    """
    found: dict[str, None] = {}
    for pattern in source.paths:
        matches = _remote_matches(source, pattern) if is_url(pattern) else _local_matches(pattern)
        if not matches:
            what = "matches nothing" if glob.has_magic(pattern) else "does not exist"
            raise ConfigError(f"source {source.name!r}: {pattern} {what}; give a path or glob of {source.kind} files")
        found.update(dict.fromkeys(matches))
    return list(found)


def check_files(source: WarcFiles | TextFiles) -> None:
    """Raise ConfigError unless every file is there, can be read, and looks like what it is said to be."""
    for path in find_files(source):
        try:
            if isinstance(source, WarcFiles):
                _check_warc(path)
            else:
                _check_columns(source, path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(f"source {source.name!r}: {path}: {reason}") from None


def list_files(source: WarcFiles | TextFiles, progress: Progress) -> list[dict[str, Any]]:
    """The inventory's file rows: absolute path or URL, kind, bytes and sha256."""
    rows: list[dict[str, Any]] = []
    paths = find_files(source)
    progress.start(len(paths), "files")
    for path in paths:
        progress.update(len(rows))
        size, sha256 = content_checksum(path)
        rows.append({"path": path, "kind": source.kind, "bytes": size, "sha256": sha256, "made_from": []})
    return rows


def content_checksum(path: str) -> tuple[int, str]:
    """Bytes and sha256 of a local path or URL; read once for what its place says of its state."""
    return _remote_checksum(path) if is_url(path) else _local_checksum(Path(path))


def _local_matches(pattern: str) -> list[str]:
    matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 (takes absolute ones)
    return [str(Path(match).resolve()) for match in matches]


def _remote_matches(source: WarcFiles | TextFiles, pattern: str) -> list[str]:
    if source.kind == "hf-dataset":
        raise ConfigError(f"source {source.name!r}: {pattern}: folders of kind hf-dataset must be local; name files")
    try:
        system, path = url_to_fs(pattern, use_listings_cache=False)
        matches = sorted(system.glob(path)) if glob.has_magic(path) else [path] if system.isfile(path) else []
    except Exception as error:  # every file system and client has errors of its own
        message = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"source {source.name!r}: {pattern}: cannot be looked at ({message})") from error
    return [system.unstrip_protocol(match) for match in matches]


def _local_checksum(path: Path) -> tuple[int, str]:
    if path.is_dir():
        return checksum(path)
    state = path.stat()
    return _checksum(path, state.st_mtime_ns, state.st_size)


def _remote_checksum(url: str) -> tuple[int, str]:
    """Read once, then known on this node by what the server says of the content."""
    system, path = url_to_fs(url, use_listings_cache=False)
    info = system.info(path)
    version = next((info[key] for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if info.get(key)), None)

    def compute() -> str:
        digest = hashlib.sha256()
        with system.open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    size = int(info["size"])
    return size, compute() if version is None else remembered(f"sha256 {url} {version} {size}", compute)


def _open(path: str) -> IO[bytes]:
    if not is_url(path):
        return Path(path).open("rb")
    system, inner = url_to_fs(path, use_listings_cache=False)
    opened: IO[bytes] = system.open(inner, "rb", block_size=_READ_BLOCK)
    return opened


@functools.lru_cache(maxsize=100_000)
def _checksum(path: Path, mtime_ns: int, size: int) -> tuple[int, str]:
    """Remembered by the file's state, as a stage's identity and its build both ask."""
    return checksum(path)


def _check_warc(path: str) -> None:
    with _open(path) as file:
        head = file.read(5)
    if head and not looks_like_an_archive(head):
        raise ValueError("is not a WARC file, plain, gzip or zstd")


def _check_columns(source: TextFiles, path: str) -> None:
    available = {"parquet": _parquet_columns, "jsonl": _json_keys, "hf-dataset": _dataset_columns}[source.kind](path)
    for key, column in source.columns().items():
        if column is not None and available is not None and column not in available:
            raise ValueError(f"has no column {column!r} ({key}_column); it has {', '.join(sorted(available))}")


def _parquet_columns(path: str) -> Iterable[str]:
    import pyarrow.parquet as pq

    with _open(path) as file:
        return pq.read_schema(file).names


def _json_keys(path: str) -> Iterable[str] | None:
    """Keys of the first object, None when there is none: damaged lines are counted when they are read."""
    from pipelines.readers import read_json_lines

    with _open(path) as file:
        empty = file.seek(0, 2) == 0
        file.seek(0)
        first = next((row for row in read_json_lines(Path(path), file) if isinstance(row, dict)), None)
    if first is None and not empty:
        raise ValueError("holds no JSON object, one a line")
    return first


def _dataset_columns(name: str) -> Iterable[str]:
    path = Path(name)
    if (path / "dataset_dict.json").exists():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        raise ValueError(f"is a dictionary of datasets; name one of its folders ({', '.join(splits)})")
    if not (path / "state.json").exists():
        raise ValueError("is not a folder that datasets.save_to_disk wrote")
    return json.loads((path / "dataset_info.json").read_text())["features"]
