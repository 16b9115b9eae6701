"""Lists the files of a growing source: a crawl's listing, a folder or object-store prefix, a dataset on a hub.

A file is known by its name within the source. Its `version` is what the place it comes from says of its content (an
ETag, a blob id, a time of modification), so that a change is noticed without reading it.
"""

from __future__ import annotations

import functools
import gzip
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from illada.config.base import ConfigError
from illada.config.refresh import GrowingFolder, GrowingSource, HubDataset, Listing
from pipelines.code_files import rule

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_THREADS = 32
_HUB = "hf://datasets/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A file as its source lists it. `url` tells `fetch` where it is; of a local file it is the absolute path."""

    name: str
    url: str
    bytes: int
    version: str

    @property
    def local(self) -> bool:
        """Whether it is used where it is, and not copied."""
        return self.url.startswith("/")


def list_growing(source: GrowingSource) -> list[Listed]:
    """All files of the source, in the order of their names (of a listing: of its lines).

    Of files of text or code those with a hidden part and those that are no code by their name are left out.

    Raises:
        ConfigError: the source cannot be reached, or lists a file that is not there.
    """
    try:
        skip = rule(source.files, source.extensions)
        return [file for file in _all(source) if skip(file.name) is None]
    except ConfigError:
        raise
    except Exception as error:  # every file system and client has errors of its own
        message = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"source {source.name!r}: cannot be listed ({message})") from error


def _all(source: GrowingSource) -> list[Listed]:
    if isinstance(source, Listing):
        return _listing(source)
    if isinstance(source, GrowingFolder):
        return _folder(source)
    return _hub(source)


def fetch(file: Listed, target: Path) -> None:
    """Download a listed file to `target`. Raises ValueError when it is no longer what was listed."""
    if file.url.startswith(_HUB):
        _fetch_from_hub(file, target)
    else:
        system, path = url_to_fs(file.url)
        system.get_file(path, str(target))
        system.invalidate_cache()
        now = _listed(file.name, file.url, system.info(path))
        if now.version != file.version:
            raise ValueError(f"{file.url}: changed while it was copied ({file.version} -> {now.version}); run again")
    size = target.stat().st_size
    if size != file.bytes:
        raise ValueError(f"{file.url}: {size} bytes arrived, {file.bytes} were listed; run again")


def unchanged(file: Listed) -> bool:
    """Whether a local file is still what was listed. Others are compared when they are copied."""
    return not file.local or (Path(file.url).exists() and _local(file.name, Path(file.url)) == file)


def _listing(source: Listing) -> list[Listed]:
    system, path = url_to_fs(source.listing)
    system.invalidate_cache()
    content = system.cat_file(path)
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    names = list(dict.fromkeys(line.strip() for line in content.decode().splitlines() if line.strip()))
    if source.base and not re.match(r"[a-z0-9+]+://|/", source.base):
        raise ConfigError(f"source {source.name!r}: base {source.base!r} must be a URL or an absolute path")
    outside = next((name for name in names if source.base and _leaves(name)), None)
    if outside is not None:
        raise ConfigError(
            f"source {source.name!r}: {source.listing} lists {outside!r}, which leads out of {source.base}"
        )
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(functools.partial(_listed_line, source), names))


def _leaves(name: str) -> bool:
    return name.startswith("/") or "://" in name or ".." in name.split("/")


def _listed_line(source: Listing, name: str) -> Listed:
    url = source.base + name
    system, path = url_to_fs(url)
    try:
        return _listed(name, url, system.info(path))
    except FileNotFoundError:
        raise ConfigError(f"source {source.name!r}: {source.listing} lists {url}, which is not there") from None


def _folder(source: GrowingFolder) -> list[Listed]:
    system, root = url_to_fs(source.location)
    system.invalidate_cache()
    if "http" in str(system.protocol):
        raise ConfigError(f"source {source.name!r}: {source.location}: http cannot list folders; use kind `listing`")
    if not system.isdir(root):
        raise ConfigError(f"source {source.name!r}: {source.location}: no such folder")
    infos = system.find(root, detail=True)
    names = {path: path.removeprefix(root).lstrip("/") for path in infos}
    wanted = set(_matching(names.values(), source.pattern))
    return [
        _listed(name, system.unstrip_protocol(path), infos[path])
        for path, name in sorted(names.items(), key=lambda item: item[1])
        if name in wanted
    ]


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Names that match; those with a hidden part are being written, or not meant."""
    matches = re.compile(glob_translate(pattern)).fullmatch
    return [name for name in names if matches(name) and not any(part[0] == "." for part in name.split("/"))]


def _listed(name: str, url: str, info: dict[str, Any]) -> Listed:
    path = url.removeprefix("file://")
    if "://" not in path:
        return _local(name, Path(path))
    if info.get("size") is None:
        raise ConfigError(f"{url}: the server does not tell its size")
    keys = ("ETag", "etag", "md5Hash", "md5", "Last-Modified", "LastModified", "last_modified", "mtime", "created")
    key = next((key for key in keys if info.get(key) is not None), None)
    version = "" if key is None else str(info[key]).strip('"')
    return Listed(name=name, url=url, bytes=int(info["size"]), version=version)


def _local(name: str, path: Path) -> Listed:
    state = path.stat()
    return Listed(name=name, url=str(path.absolute()), bytes=state.st_size, version=f"mtime {state.st_mtime_ns}")


def _hub_client() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _hub(source: HubDataset) -> list[Listed]:
    from huggingface_hub.hf_api import RepoFile

    client = _hub_client()
    commit = client.dataset_info(source.repository, revision=source.revision).sha
    tree = client.list_repo_tree(source.repository, repo_type="dataset", revision=commit, recursive=True)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    return [
        Listed(
            name=name,
            url=f"{_HUB}{source.repository}@{commit}/{name}",
            bytes=files[name].size,
            version=files[name].lfs.sha256 if files[name].lfs else files[name].blob_id,
        )
        for name in sorted(_matching(files, source.pattern))
    ]


def _fetch_from_hub(file: Listed, target: Path) -> None:
    repository, _, rest = file.url.removeprefix(_HUB).partition("@")
    commit, _, name = rest.partition("/")
    folder = target.with_name(f"{target.name}.hub")
    path = _hub_client().hf_hub_download(
        repository, name, repo_type="dataset", revision=commit, local_dir=folder, token=None
    )
    Path(path).replace(target)
    shutil.rmtree(folder)
