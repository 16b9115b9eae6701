"""Growing sources as they are: local folders, a crawl's listing over HTTP, an object store, a dataset hub."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from text_bench import Bench

from illada.artifacts import Artifact, NoProgress
from illada.config import ConfigError, DataPlacement
from illada.config.refresh import GrowingFolder, HubDataset, Listing
from pipelines.inputs import plan_units, read_inventory
from pipelines.shared import fetch as fetch_shared
from pipelines.sources.growing import Listed, fetch, list_growing, unchanged
from pipelines.take import take


def folder(location: str | Path, pattern: str = "**/*.jsonl") -> GrowingFolder:
    return GrowingFolder(name="own", files="jsonl", location=str(location), pattern=pattern)


def listing(path: str | Path, base: str = "") -> Listing:
    return Listing(name="crawl", files="warc", listing=str(path), base=base)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server of a folder: its address, and the folder."""
    root = tmp_path / "web"
    root.mkdir()
    yield from _serve(functools.partial(_Quiet, directory=str(root)), root)


def _serve(handler: Any, value: Any) -> Iterator[tuple[str, Any]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", value
    server.shutdown()
    server.server_close()


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/c.jsonl", "a/.c.jsonl.tmp.jsonl", ".hidden/d.jsonl", "a/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    listed = list_growing(folder(tmp_path))
    assert [(file.name, file.url, file.bytes) for file in listed] == [
        ("a/c.jsonl", str(tmp_path / "a/c.jsonl"), 9), ("b.jsonl", str(tmp_path / "b.jsonl"), 7),
    ]  # fmt: skip
    assert all(file.local and unchanged(file) for file in listed)
    os.utime(tmp_path / "b.jsonl", ns=(1, 1))
    assert [unchanged(file) for file in listed] == [True, False]
    (tmp_path / "a/c.jsonl").unlink()
    assert not unchanged(listed[0])
    assert [file.name for file in list_growing(folder(tmp_path, "*.jsonl"))] == ["b.jsonl"]
    with pytest.raises(ConfigError, match=r"source 'own': .*/nothing: no such folder"):
        list_growing(folder(tmp_path / "nothing"))


def test_a_listing(tmp_path: Path) -> None:
    for name in ("x/1.warc.gz", "x/0.warc.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    plain, packed = tmp_path / "paths", tmp_path / "paths.gz"
    plain.write_text("x/1.warc.gz\n\nx/0.warc.gz\nx/1.warc.gz\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    listed = list_growing(listing(packed, f"{tmp_path}/"))
    assert [file.name for file in listed] == ["x/1.warc.gz", "x/0.warc.gz"], "in its order, each once"
    assert listed == list_growing(listing(plain, f"{tmp_path}/"))
    plain.write_text("x/2.warc.gz\n")
    with pytest.raises(ConfigError, match=r"paths lists .*/x/2\.warc\.gz, which is not there"):
        list_growing(listing(plain, f"{tmp_path}/"))
    for name in ("../x", "x/../../y", "/etc/hosts", "https://elsewhere.invalid/x"):
        plain.write_text(f"{name}\n")
        with pytest.raises(ConfigError, match="which leads out of"):
            list_growing(listing(plain, f"{tmp_path}/"))
    with pytest.raises(ConfigError, match=r"source 'crawl': cannot be listed \(.*nowhere"):
        list_growing(listing(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="base 'x/' must be a URL or an absolute path"):
        list_growing(listing(plain, "x/"))


def test_a_listing_over_http(web: tuple[str, Path], tmp_path: Path) -> None:
    address, root = web
    (root / "1.warc.gz").write_bytes(b"one")
    (root / "paths").write_text("1.warc.gz\n")
    (file,) = list_growing(listing(f"{address}/paths", f"{address}/"))
    assert (file.name, file.url, file.bytes, file.local) == ("1.warc.gz", f"{address}/1.warc.gz", 3, False)
    assert "GMT" in file.version, "what the server says of it"
    fetch(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"one"
    (root / "1.warc.gz").write_bytes(b"two")
    os.utime(root / "1.warc.gz", (1, 1))
    with pytest.raises(ValueError, match=r"1\.warc\.gz: changed while it was copied"):
        fetch(file, tmp_path / "copy")
    with pytest.raises(ConfigError, match="http cannot list folders; use kind `listing`"):
        list_growing(folder(address))
    (root / "paths").write_text("2.warc.gz\n")
    with pytest.raises(ConfigError, match=r"lists .*/2\.warc\.gz, which is not there"):
        list_growing(listing(f"{address}/paths", f"{address}/"))


def test_an_object_store(s3_url: str, tmp_path: Path) -> None:
    with fsspec.open(f"{s3_url}/crawl/2026/a.jsonl", "wb") as file:
        file.write(b"{}")
    with fsspec.open(f"{s3_url}/crawl/b.txt", "wb") as file:
        file.write(b"no")
    (listed,) = list_growing(folder(f"{s3_url}/crawl"))
    etag = hashlib.md5(b"{}").hexdigest()
    assert listed == Listed(name="2026/a.jsonl", url=f"{s3_url}/crawl/2026/a.jsonl", bytes=2, version=etag)
    fetch(listed, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"{}"
    with fsspec.open(listed.url, "wb") as file:
        file.write(b"[]")
    (now,) = list_growing(folder(f"{s3_url}/crawl"))
    assert now.version != listed.version
    with pytest.raises(ValueError, match="changed while it was copied"):
        fetch(listed, tmp_path / "copy")


class _Hub(BaseHTTPRequestHandler):
    """As much of a hub's API as listing and downloading a dataset takes."""

    commit = "c" * 40
    files: ClassVar = {"data/train-0.parquet": b"parquet", "README.md": b"words"}

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """What a file is."""
        self._file(b"")

    def do_GET(self) -> None:
        """The dataset, its tree, or a file."""
        base = "/api/datasets/org/set"
        if self.path.startswith(f"{base}/revision/main"):
            self._answer({"id": "org/set", "sha": self.commit, "siblings": []})
        elif self.path.startswith(f"{base}/tree/{self.commit}"):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            rows[0]["lfs"] = {"oid": hashlib.sha256(b"parquet").hexdigest(), "size": 7, "pointerSize": 120}
            self._answer([{"type": "directory", "path": "data", "oid": "d"}, *rows])
        else:
            self._file(None)

    def _file(self, body: bytes | None) -> None:
        name = self.path.partition(f"/datasets/org/set/resolve/{self.commit}/")[2]
        if name not in self.files:
            self.send_error(404)
            return
        data = self.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        self.wfile.write(data if body is None else body)

    def _answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub with one dataset."""
    for address, _ in _serve(_Hub, None):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield address


def test_a_dataset_on_a_hub(hub: str, tmp_path: Path) -> None:
    source = HubDataset(name="set", files="parquet", repository="org/set")
    (file,) = list_growing(source)
    assert (file.name, file.bytes, file.version) == ("data/train-0.parquet", 7, hashlib.sha256(b"parquet").hexdigest())
    assert file.url == f"hf://datasets/org/set@{_Hub.commit}/data/train-0.parquet", "of the commit, not of the branch"
    fetch(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"parquet"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    with pytest.raises(ConfigError, match="source 'set': cannot be listed"):
        list_growing(source.model_copy(update={"repository": "org/none"}))


@pytest.mark.usefixtures("cluster")
def test_taken_files_of_a_server_are_copied(bench: Bench, web: tuple[str, Path], tmp_path: Path) -> None:
    address, root = web
    (root / "1.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    (root / "paths").write_text("1.jsonl.gz\n")
    source = Listing(name="lines", files="jsonl", listing=f"{address}/paths", base=f"{address}/", licence="CC0-1.0")
    (file,) = list_growing(source)
    new = [{"name": file.name, "url": file.url, "bytes": file.bytes, "version": file.version, "sha256": None}]
    placement = DataPlacement(workers=1)
    taken: Artifact = bench.run(
        "acquire-lines", {}, lambda attempt: take(source, new, attempt, placement, NoProgress())
    )
    inventory = read_inventory(taken)
    (row,) = inventory["files"]
    assert Path(row["file"]["url"]).read_bytes() == (root / "1.jsonl.gz").read_bytes()
    assert row["path"] == "files/000000-1.jsonl.gz", "its ending tells how it is packed"
    assert row["sha256"] == hashlib.sha256((root / "1.jsonl.gz").read_bytes()).hexdigest()
    assert row["made_from"] == [{"name": "1.jsonl.gz", "url": file.url, "version": file.version}]
    assert (inventory["licence"], inventory["columns"]["text"]) == ("CC0-1.0", "text")

    there = source.model_copy(update={"copy_files": False})
    seen = bench.run("acquire-there", {}, lambda attempt: take(there, new, attempt, placement, NoProgress()))
    assert seen.names == ["inventory.json"]
    (found,) = read_inventory(seen)["files"]
    assert (found["path"], found["sha256"]) == (file.url, row["sha256"])
    assert fetch_shared(found["file"]).read_bytes() == (root / "1.jsonl.gz").read_bytes(), "as curation reads it"

    many = {f"{part}/{number}.txt": f"{part} {number}" for part in ("a", "b") for number in range(3)}
    for name, text in many.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / "texts").write_text("".join(f"{name}\n" for name in many))
    texts = Listing(name="texts", files="text", listing=f"{address}/texts", base=f"{address}/")
    small = [{**asdict(file), "sha256": None} for file in list_growing(texts)]
    together = bench.run("acquire-texts", {}, lambda attempt: take(texts, small, attempt, placement, NoProgress()))
    (unit,) = plan_units([read_inventory(together)])
    assert [(file["name"], Path(file["url"]).read_text()) for file in unit.payload["files"]] == list(many.items())
    assert together.names == [*(f"files/{n:06d}-{n % 3}.txt" for n in range(6)), "inventory.json"]

    (root / "1.jsonl.gz").unlink()
    with pytest.raises(FileNotFoundError):
        bench.run("acquire-again", {}, lambda attempt: take(source, new, attempt, placement, NoProgress()))
