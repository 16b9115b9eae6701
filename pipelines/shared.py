"""Files that a stage's driver and its workers, on whatever nodes, refer to by address and checksum in plain JSON.

A reference is `{"url": ..., "sha256": ...}`. On files the address is the path; from an object store the file is fetched
into the node's cache, once for all workers of the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from fsspec.core import url_to_fs

from illada.artifacts import Artifact, ArtifactError, Folder, atomic_path, sha256_file
from illada.artifacts.cache import cached
from illada.artifacts.folder import is_url

Reference = Mapping[str, str]


def reference(artifact: Artifact, name: str) -> dict[str, str]:
    """Of a file of an artifact."""
    (sha256,) = (str(file["sha256"]) for file in artifact.record["files"] if file["name"] == name)
    return {"url": f"{artifact.location}/{name}", "sha256": sha256}


def share(path: Path, work: Folder) -> dict[str, str]:
    """Make a finished local file visible to all nodes, in `work`, under a name that has part of its checksum."""
    sha256 = sha256_file(path)
    name = f"{path.stem}-{sha256[:16]}{path.suffix}"
    if not work.exists(name):
        work.put(path, name, sha256)
    return {"url": f"{work}/{name}", "sha256": sha256}


def share_array(array: npt.NDArray[Any], name: str, scratch: Path, work: Folder) -> dict[str, str]:
    """`share` of an array, by way of a file `<name>.npy` in the local folder `scratch`."""
    path = scratch / f"{name}.npy"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
    return share(path, work)


def fetch(file: Reference) -> Path:
    """A local path of the file. Raises FileNotFoundError, or ArtifactError for one that is damaged."""
    url, sha256 = file["url"], file["sha256"]
    folder, _, name = url.rpartition("/")
    if not is_url(url) or url.startswith("s3://"):
        return Folder.at(folder).fetch(name, sha256)
    system, path = url_to_fs(url)

    def download(local: Path) -> None:
        system.get_file(path, str(local))
        if sha256_file(local) != sha256:
            raise ArtifactError(f"{url}: what was downloaded has another sha256 than was recorded")

    return cached(f"by-sha256/{sha256[:2]}/{sha256}/{name}", sha256, lambda: int(system.info(path)["size"]), download)


def open_part(file: Reference) -> IO[bytes]:
    """The file opened for reading a part of it, without fetching the rest."""
    folder, _, name = file["url"].rpartition("/")
    if not is_url(file["url"]) or file["url"].startswith("s3://"):
        return Folder.at(folder).open(name)
    system, path = url_to_fs(file["url"])
    opened: IO[bytes] = system.open(path, "rb")
    return opened


def load_array(file: Reference) -> npt.NDArray[Any]:
    """The array in a file, memory-mapped."""
    array: npt.NDArray[Any] = np.load(fetch(file), mmap_mode="r")
    return array
