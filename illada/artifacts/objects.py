"""A folder in an object store, through fsspec: every object is written whole, `create` is a conditional put.

Credentials, region and endpoint come from the environment, as for every S3 client (AWS_ACCESS_KEY_ID, AWS_PROFILE,
AWS_ENDPOINT_URL, an instance's role, ...), never from a URL. What a node writes carries its sha256 as metadata, so that
copies inside the store need no download.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from illada.artifacts.cache import cached
from illada.artifacts.files import sha256_file
from illada.artifacts.folder import ArtifactError, Folder, checked_name

_SHA256 = "sha256"
_PART = 64 * 2**20  # of an upload in several requests; S3 allows 10,000 parts
_READ_BLOCK = 2**20
_CONFLICTS = 8  # of conditional puts
_ANSWER_SECONDS = 10.0
_PASSING = (errno.EBUSY, errno.EREMOTEIO)  # what s3fs makes of a server's "slow down", conflict and internal error
_DELETED_TOGETHER = 1000


class ObjectFolder(Folder):
    """A prefix of a bucket."""

    __slots__ = ()

    @staticmethod
    def at_url(url: str) -> ObjectFolder:
        """The folder of an ``s3://bucket/prefix`` URL."""
        scheme, _, rest = url.partition("://")
        bucket = rest.partition("/")[0]
        if scheme != "s3":
            raise ArtifactError(f"{url}: only folders and s3:// are supported as stores")
        if not bucket or "@" in bucket or ":" in bucket or "?" in rest:
            raise ArtifactError(
                f"store s3://{bucket.rpartition('@')[2]}: write it as s3://bucket/prefix; credentials "
                "and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...)"
            )
        return ObjectFolder("s3://" + "/".join(part for part in rest.split("/") if part))

    def check(self) -> None:
        _require_answer(self.url)
        probe = f".probe-{uuid.uuid4().hex[:12]}"
        try:
            created = [self.create(probe, b"") for _ in range(2)]
        except FileNotFoundError:
            raise ArtifactError(
                f"{self}: there is no bucket {self._bucket()!r}; create it, or correct placement.store"
            ) from None
        except OSError as error:
            raise ArtifactError(f"{self}: cannot be written ({_text(error)})") from None
        self.delete(probe)
        if created != [True, False]:
            raise ArtifactError(
                f"{self}: this object store ignores conditional writes (If-None-Match), without which two runs could "
                "publish one artifact; use a store that has them"
            )

    def open(self, name: str) -> IO[bytes]:
        with self._errors():
            file: IO[bytes] = _client().open(self._path(name), "rb", block_size=_READ_BLOCK)
            return file

    def read_bytes(self, name: str) -> bytes:
        with self._errors():
            data: bytes = _client().cat_file(self._path(name))
            return data

    def write(self, name: str, data: bytes) -> None:
        with self._errors():
            _client().pipe_file(self._path(name), data, Metadata={_SHA256: hashlib.sha256(data).hexdigest()})

    def create(self, name: str, data: bytes) -> bool:
        metadata = {_SHA256: hashlib.sha256(data).hexdigest()}
        for repetition in range(_CONFLICTS):
            try:
                with self._errors():
                    _client().pipe_file(self._path(name), data, mode="create", Metadata=metadata)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno != errno.EBUSY or repetition == _CONFLICTS - 1:
                    raise
                time.sleep(0.05 * 2**repetition)  # S3 asks to repeat a conditional put that met another one
            else:
                return True
        raise AssertionError("not reached")

    def exists(self, name: str) -> bool:
        return self._head(name) is not None

    def names(self, prefix: str = "") -> dict[str, int]:
        """See Folder. Files only, not the empty objects that some tools make for folders."""
        root = self._root()
        pages = self._pages(Prefix=root + prefix)
        objects = [entry for page in pages for entry in page.get("Contents", ())]
        return {entry["Key"][len(root) :]: int(entry["Size"]) for entry in objects if not entry["Key"].endswith("/")}

    def folders(self) -> list[str]:
        root = self._root()
        pages = self._pages(Prefix=root, Delimiter="/")
        return [entry["Prefix"][len(root) : -1] for page in pages for entry in page.get("CommonPrefixes", ())]

    def delete(self, name: str) -> None:
        with self._errors(), contextlib.suppress(FileNotFoundError):
            _client().call_s3("delete_object", Bucket=self._bucket(), Key=self._key(name))

    def delete_tree(self) -> None:
        keys = [{"Key": self._key(name)} for name in self.names()]
        for start in range(0, len(keys), _DELETED_TOGETHER):
            batch = {"Objects": keys[start : start + _DELETED_TOGETHER], "Quiet": True}
            with self._errors():
                _client().call_s3("delete_objects", Bucket=self._bucket(), Delete=batch)

    def put(self, local: Path, name: str, sha256: str | None = None) -> None:
        metadata = {_SHA256: sha256 or sha256_file(local)}
        with self._errors():
            _client().put_file(str(local), self._path(name), chunksize=_PART, Metadata=metadata)

    def copy(self, source: Folder, name: str, target: str) -> tuple[int, str | None]:
        assert isinstance(source, ObjectFolder), f"{source} is on another store than {self}"
        head = source._head_of(name)
        with self._errors():
            _client().cp_file(source._path(name), self._path(target))
        return int(head["ContentLength"]), head["Metadata"].get(_SHA256)

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """See Folder. What is in the cache with this sha256 is not asked for again; without one, the ETag counts."""
        head = None if sha256 else self._head_of(name)
        expected = sha256 or (head["Metadata"].get(_SHA256) if head else None)

        def size() -> int:
            return int((head or self._head_of(name))["ContentLength"])

        def download(path: Path) -> None:
            with self._errors():
                _client().get_file(self._path(name), str(path))
            if expected is not None and sha256_file(path) != expected:
                raise ArtifactError(f"{self}/{name}: what was downloaded has another sha256 than was recorded")

        version = sha256 or str(head and head["ETag"])
        return cached(f"{_endpoint()}/{self._path(name)}", version, size, download)

    def append_line(self, name: str, line: str, part: str = "") -> str:
        part = part or f"{name}.lines/{time.time_ns():020d}-{uuid.uuid4().hex[:6]}"
        self.write(part, f"{line}\n".encode())
        return part

    def read_lines(self, name: str) -> list[str]:
        parts = self / f"{name}.lines"
        return [line for part in parts.names() for line in parts.read_text(part).split("\n")[:-1]]

    def replace_lines(self, name: str, lines: Sequence[str]) -> None:
        parts = self / f"{name}.lines"
        old = list(parts.names())
        if lines:
            self.append_line(name, "\n".join(lines))
        for part in old:
            parts.delete(part)

    def _pages(self, **request: Any) -> Iterator[dict[str, Any]]:
        """The pages of a listing."""
        while True:
            with self._errors():
                page = _client().call_s3("list_objects_v2", Bucket=self._bucket(), **request)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _root(self) -> str:
        """What every key in the folder begins with."""
        return f"{self._key('')}/".removeprefix("/")

    def _bucket(self) -> str:
        return self.url.removeprefix("s3://").partition("/")[0]

    def _key(self, name: str) -> str:
        prefix = self.url.removeprefix("s3://").partition("/")[2]
        return "/".join(part for part in (prefix, name and checked_name(name)) if part)

    def _path(self, name: str) -> str:
        return f"{self._bucket()}/{self._key(name)}"

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            with self._errors():
                head: dict[str, Any] = _client().call_s3("head_object", Bucket=self._bucket(), Key=self._key(name))
                return head
        except FileNotFoundError:
            return None

    def _head_of(self, name: str) -> dict[str, Any]:
        head = self._head(name)
        if head is None:
            raise FileNotFoundError(2, "No such file or directory", f"{self}/{name}")
        return head

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Library errors as ours: what may pass is a ConnectionError, what will not is an ArtifactError."""
        import botocore.exceptions as boto

        try:
            yield
        except PermissionError as error:
            raise ArtifactError(
                f"{self}: access denied ({_text(error)}); check the credentials and their rights"
            ) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound) as error:
            raise ArtifactError(
                f"{self}: no usable credentials ({_text(error)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE"
            ) from None
        except (boto.ConnectionError, boto.HTTPClientError) as error:
            raise ConnectionError(f"{self}: {_text(error)}") from None
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            raise ConnectionError(error.errno, f"{self}: {_text(error)}") from None


@functools.cache
def _made(process: int) -> Any:
    import s3fs

    return s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": 8},
            "connect_timeout": 10,
            "read_timeout": 60,
            "max_pool_connections": 32,
        },
    )


_lock = threading.Lock()


def _client() -> Any:
    """The client of this process, never one inherited through a fork, whose connections are another's."""
    with _lock:
        return _made(os.getpid())


def _endpoint() -> str:
    """A name for the service this node talks to: two of them may have buckets of one name."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "aws"
    return hashlib.sha256(endpoint.encode()).hexdigest()[:8]


def _require_answer(url: str) -> None:
    """ArtifactError at once where nobody listens: the client would try again for a long time."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise ArtifactError(
            f"{url}: no object store answers at {parts.scheme}://{parts.hostname}:{port} ({_text(error)}); check "
            "AWS_ENDPOINT_URL"
        ) from None


def _text(error: Exception) -> str:
    return " ".join(str(error).split())
