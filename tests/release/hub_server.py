"""A model hub on loopback, as much of one as a push needs: repositories, LFS objects by content, commits.

Enough of the Hub's HTTP interface for `huggingface_hub` to work on unchanged; written after what the client sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the hub holds, and what it was asked for. `refuse_after` LFS objects it ends every connection."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    private: bool | None = None
    tokens: set[str | None] = field(default_factory=set)
    refuse_after: int | None = None


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub with one repository to be made."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.tokens.add(self.headers["Authorization"])
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                hub.private = asked.get("private", asked.get("visibility") == "private")
                self._reply({"url": f"{hub.address}/me/tiny", "name": "me/tiny", "id": "1"})
            elif self.path.endswith("/preupload/main"):
                self._reply({"files": [self._mode(file) for file in json.loads(body)["files"]]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self._reply({"transfer": "basic", "objects": [self._wanted(o) for o in json.loads(body)["objects"]]})
            elif self.path == "/api/validate-yaml":
                self._reply({"errors": [], "warnings": []})
            elif self.path.endswith("/commit/main"):
                self._commit([json.loads(line) for line in body.decode().splitlines()])
            else:
                self._reply({"error": f"no {self.path}"}, 404)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self.path.rpartition("/")[2]
            if hub.refuse_after is not None and len(hub.uploads) >= hub.refuse_after:
                self._reply({"error": "quota"}, 403)
                return
            assert hashlib.sha256(body).hexdigest() == oid
            hub.objects[oid] = body
            hub.uploads.append(oid)
            self._reply({})

        def do_GET(self) -> None:
            if "/tree/main" in self.path:
                rows = [{"type": "file", "path": n, "size": len(b), "oid": _oid(b)} for n, b in hub.files.items()]
                self._reply(rows)
            elif self.path.startswith("/api/models/me/tiny"):
                siblings = [{"rfilename": name} for name in hub.files]
                self._reply({"id": "me/tiny", "sha": "0" * 40, "siblings": siblings, "private": True, "tags": []})
            else:
                self._reply({"error": f"no {self.path}"}, 404)

        def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
            mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

        def _wanted(self, entry: dict[str, Any]) -> dict[str, Any]:
            if entry["oid"] in hub.objects:
                return entry
            return {**entry, "actions": {"upload": {"href": f"{hub.address}/objects/{entry['oid']}"}}}

        def _commit(self, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
                else:
                    hub.commits.append(value["summary"])
            self._reply({"commitUrl": f"{hub.address}/me/tiny/commit/1", "commitOid": "1" * 40})

        def _reply(self, value: Any, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
