"""Ray's job server, over its REST interface: who answers there, what a job is doing, and starting one.

Ray's own client has no time limits, takes its address from the environment if there is one (inside a job there is),
and imports all of Ray. Authentication is Ray's: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
~/.ray/auth_token; the token goes to no other host.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.durable.package import Package

_TIMEOUT_SECONDS = 10.0
_START_SECONDS = 60.0  # a head that has just come up starts a job when its own services are there
_LONGEST_MESSAGE = 300


class JobServerError(ValueError):
    """The job server refuses what was asked, or is none; says why and what to do."""


class JobServerUnreachable(JobServerError):
    """Nobody answers at the address just now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as the server knows it. `state`: pending, running, stopped, succeeded or failed."""

    state: str
    message: str

    @property
    def alive(self) -> bool:
        """Whether it has yet to end."""
        return self.state in ("pending", "running")


class JobServer:
    """The job server at `address`, as in http://HEAD:8265."""

    def __init__(self, address: str) -> None:
        """Raises JobServerError for an address of another form, or a token that cannot be read."""
        self.address = address.rstrip("/")
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise JobServerError(f"address {address!r}: give the cluster's job server, as in http://HEAD:8265")
        self.local = is_loopback(parts.hostname)
        self._headers = _authorization(self.address, self.local)
        # Nothing in between: a proxy for the web would see the token.
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))

    def check(self) -> None:
        """Raises JobServerError unless a job server answers here and accepts us."""
        try:
            version = self._request("GET", "/api/version")["ray_version"]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, JobServerError):
                raise
            raise JobServerError(f"{self.address} is no Ray job server: it does not tell its version") from None
        assert version

    def job(self, job: str) -> Job | None:
        """The job of this id, None when the server knows none: it never had it, or its cluster is a new one."""
        found = self._request("GET", f"/api/jobs/{urllib.parse.quote(job, safe='')}", missing=True)
        if found is None:
            return None
        message = " ".join(str(found.get("message") or "").split())
        return Job(state=str(found["status"]).lower(), message=message[:_LONGEST_MESSAGE])

    def upload(self, package: Package) -> str:
        """The URI of `package` on the cluster, which gets it if it has not got it yet."""
        name = f"_ray_pkg_illada_{package.sha256}.zip"
        if self._request("GET", f"/api/packages/gcs/{name}", missing=True) is None:
            self._request("PUT", f"/api/packages/gcs/{name}", package.data)
        return f"gcs://{name}"

    def submit(self, job: str, entrypoint: str, runtime_env: dict[str, Any]) -> None:
        """Start a job under this id."""
        body = {"submission_id": job, "entrypoint": entrypoint, "runtime_env": runtime_env, "metadata": {}}
        self._request("POST", "/api/jobs/", json.dumps(body).encode())

    def _request(self, method: str, path: str, data: bytes | None = None, missing: bool = False) -> Any:
        """The answer's JSON; None for a 404 if `missing` may be."""
        headers = {**self._headers, **({"Content-Type": "application/json"} if method == "POST" else {})}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            seconds = _START_SECONDS if method == "POST" else _TIMEOUT_SECONDS
            with self._opener.open(request, timeout=seconds) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing:
                return None
            raise self._refusal(error) from None
        except json.JSONDecodeError:
            raise JobServerError(f"{self.address} is no Ray job server: its answer to {path} is no JSON") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise JobServerUnreachable(
                f"no Ray job server answers at {self.address} ({reason}); is the cluster up, and the address that of "
                "its dashboard?"
            ) from None

    def _refusal(self, error: urllib.error.HTTPError) -> JobServerError:
        if error.code == 401:
            return JobServerError(
                f"{self.address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file "
                "that holds the cluster's"
            )
        if error.code == 403:
            return JobServerError(f"{self.address} refuses the token of {_token_source()}: it is not the cluster's")
        text = " ".join(error.read(_LONGEST_MESSAGE).decode(errors="replace").split())
        if error.code in (502, 503, 504):
            return JobServerUnreachable(f"{self.address}: HTTP {error.code} {text}")
        return JobServerError(f"{self.address} is no Ray job server, or refuses this: HTTP {error.code} {text}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirected request would carry the token elsewhere."""


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authorization(address: str, local: bool) -> dict[str, str]:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None and not local:
        raise JobServerError(
            f"{address} is not this machine: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that holds "
            "the cluster's token (RAY_AUTH_MODE=disabled to go without one on a network you trust)"
        )
    if mode != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        try:
            token = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise JobServerError(
                f"RAY_AUTH_MODE is token, and the token file {path} cannot be read ({error.strerror}); "
                "set RAY_AUTH_TOKEN_PATH"
            ) from None
    return {"Authorization": f"Bearer {token}"}


def _token_source() -> str:
    names = (name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name))
    return next(names, "~/.ray/auth_token")
