"""Push a release to an object store, a folder or a model hub; what was sent before an interruption is not sent again.

Anything fsspec knows (``s3://bucket/prefix``, ...): files go up one by one. A journal beside them, `.push.json`, says
with which digest each arrived and which version of it the store then had; the next push skips those. `checksums.json`,
without which nothing is a release, comes last, and the journal goes.

``hf://owner/name[@revision]``: large files go up first, addressed by their content, so that the hub takes none twice;
then one commit makes all files visible together.

Credentials come from the environment (AWS_*, HF_TOKEN, ...), never from the address.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from illada.artifacts import sha256_file
from illada.release.checksums import CHECKSUMS, check_files

JOURNAL = ".push.json"
_HUB = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_OWN = (".gitattributes",)
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "huggingface_hub", "httpx", "gcsfs", "adlfs")

Notice = Callable[[str], None]


class PushError(ValueError):
    """A release that cannot go where it was told to: says where, and why."""


def check_address(url: str) -> None:
    """Raises PushError for an address that cannot be pushed to whatever happens."""
    scheme, _, rest = url.partition("://")
    if scheme == "hf":
        if not _HUB.fullmatch(url):
            raise PushError(f"{url}: write it as hf://owner/name or hf://owner/name@revision")
        return
    if rest and "@" in rest.partition("/")[0]:
        raise PushError(f"{scheme}://{rest.rpartition('@')[2]}: credentials come from the environment, not the address")
    _file_system(url)


def push(folder: Path, url: str, notice: Notice = lambda line: None) -> None:
    """Bring the release in `folder` to `url`. `notice` gets a line for each file that is sent.

    Raises:
        ReleaseError: the folder does not hold what its checksums say.
        PushError: the address is wrong, holds something else, or does not answer.
    """
    check_address(url)
    digests = check_files(folder)
    with _errors(url):
        (_push_hub if url.startswith("hf://") else _push)(folder, digests, url, notice)


def _push(folder: Path, digests: Mapping[str, str], url: str, notice: Notice) -> None:
    files, root = _file_system(url)
    remote = _listing(files, root)
    journal = _read_journal(files, root) if JOURNAL in remote else {}
    whole = _is_whole(files, root, folder, remote, url)
    strange = sorted(remote.keys() - digests.keys() - journal.keys() - {CHECKSUMS, JOURNAL})
    if strange:
        raise PushError(f"{url}: holds {strange[0]}, which is no part of this release; push to an empty place")
    for name in journal.keys() & remote.keys() - digests.keys():
        files.rm_file(f"{root}/{name}")  # of another release that did not get through
    journal = {name: entry for name, entry in journal.items() if name in digests}
    for name, digest in sorted(digests.items()):
        path = folder / name
        known = {"bytes": path.stat().st_size, "sha256": digest}
        there = remote.get(name)
        same_size = there is not None and there["size"] == known["bytes"]
        if there is not None and same_size and (whole or journal.get(name) == {**known, "version": _version(there)}):
            continue
        notice(f"{name} ({known['bytes']:,} bytes)")
        _send(files, path, f"{root}/{name}")
        journal[name] = {**known, "version": _version(files.info(f"{root}/{name}"))}
        files.pipe_file(f"{root}/{JOURNAL}", json.dumps(journal).encode())
    if not whole:
        notice(CHECKSUMS)
        _send(files, folder / CHECKSUMS, f"{root}/{CHECKSUMS}")
    if files.exists(f"{root}/{JOURNAL}"):
        files.rm_file(f"{root}/{JOURNAL}")


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, root = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise PushError(f"{url}: no such kind of place ({error})") from None
    return files, str(root).rstrip("/")


def _listing(files: Any, root: str) -> dict[str, dict[str, Any]]:
    """What is below `root`, by name."""
    found: dict[str, dict[str, Any]] = files.find(root, detail=True)
    return {name[len(root) + 1 :]: info for name, info in found.items()}


def _is_whole(files: Any, root: str, folder: Path, remote: Mapping[str, Any], url: str) -> bool:
    """Whether this release got there as a whole before. Raises PushError when another one did."""
    if CHECKSUMS not in remote:
        return False
    if files.cat_file(f"{root}/{CHECKSUMS}") != (folder / CHECKSUMS).read_bytes():
        raise PushError(f"{url}: holds another release; push to another place, or remove that one first")
    return True


def _read_journal(files: Any, root: str) -> dict[str, Any]:
    try:
        journal = json.loads(files.cat_file(f"{root}/{JOURNAL}"))
    except ValueError:
        return {}
    return journal if isinstance(journal, dict) else {}


def _send(files: Any, path: Path, target: str) -> None:
    files.makedirs(target.rpartition("/")[0], exist_ok=True)
    files.put_file(str(path), target)


def _version(info: Mapping[str, Any]) -> str:
    """What the store calls this state of the file."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def _push_hub(folder: Path, digests: Mapping[str, str], url: str, notice: Notice) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    match = _HUB.fullmatch(url)
    assert match is not None
    repository, revision = match["repository"], match["revision"] or "main"
    api = HfApi(token=os.environ.get("HF_TOKEN") or False)
    api.create_repo(repository, private=True, exist_ok=True)
    if revision != "main":
        api.create_branch(repository, branch=revision, exist_ok=True)
    there = set(api.list_repo_files(repository, revision=revision))
    names = {*digests, CHECKSUMS}
    changes: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in sorted(names)
    ]
    changes += [CommitOperationDelete(path_in_repo=name) for name in sorted(there - names - set(_HUB_OWN))]
    notice(f"{len(names)} files in one commit")
    message = f"Release {sha256_file(folder / CHECKSUMS)[:16]}"
    api.create_commit(repository, operations=changes, commit_message=message, revision=revision)


@contextlib.contextmanager
def _errors(url: str) -> Iterator[None]:
    """What stores and hubs raise, in one line with the address."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # the hub's client says which file failed, and hides why in its cause
        if not isinstance(cause, OSError) and not type(cause).__module__.startswith(_LIBRARIES):
            raise
        said = [str(error), *([str(cause)] if cause is not error else [])]
        text = " ".join(" ".join(said).split()) or type(error).__name__
        raise PushError(f"{url}: {text}; what has arrived stays, push again to send the rest") from None
