"""A job server for tests of what talks to one: Ray's REST interface over a dictionary of jobs, real HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeJobServer:
    """`jobs` are the answers about jobs by id; a submitted one is PENDING. `token` None asks for none."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.jobs: dict[str, dict[str, Any]] = {}
        self.packages: dict[str, bytes] = {}
        self.submitted: list[dict[str, Any]] = []
        self.version: Any = {"ray_version": "2.60.0"}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"jobs": self}))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """For `JobServer`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Nobody listens there any more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    jobs: FakeJobServer

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        known: dict[str, Any] = {**self.jobs.jobs, **{package: {} for package in self.jobs.packages}}
        if self.path == "/api/version":
            self._answer(200, self.jobs.version)
        else:
            self._answer(*((200, known[name]) if name in known else (404, f"{name} does not exist")))

    def do_PUT(self) -> None:
        self.jobs.packages[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer(200, None)

    def do_POST(self) -> None:
        body = json.loads(self._body())
        with self.jobs.lock:
            if body["submission_id"] in self.jobs.jobs:
                self._answer(500, f"Job with submission_id {body['submission_id']} already exists.")
                return
            self.jobs.jobs[body["submission_id"]] = {"status": "PENDING", "message": None}
            self.jobs.submitted.append(body)
        self._answer(200, {"submission_id": body["submission_id"]})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, code: int, value: Any) -> None:
        given = self.headers.get("Authorization")
        if self.jobs.token is not None and given != f"Bearer {self.jobs.token}":
            code, value = (401, "Unauthorized") if given is None else (403, "Forbidden")
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""
