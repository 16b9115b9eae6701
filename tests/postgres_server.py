"""A private PostgreSQL for tests, where the distribution's server is installed; started again and again at will."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Server:
    """A running server and its data folder."""

    programs: Path
    data: Path
    port: int

    @property
    def url(self) -> str:
        """The test database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self, program: str, *arguments: str) -> None:
        """Run a server program, as the user `postgres` when the tests run as root (it refuses root)."""
        user = "postgres" if os.getuid() == 0 else None
        done = subprocess.run(
            [self.programs / program, *arguments],
            user=user,
            group=user,
            cwd=self.data.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start, or start again."""
        log = str(self.data.parent / "log")
        options = f"-p {self.port} -k {self.data.parent} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.command("pg_ctl", "-D", str(self.data), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop at once, dropping every connection."""
        self.command("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")


def find_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, which distributions keep off the PATH."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextlib.contextmanager
def private_server(password: str | None = None) -> Iterator[Server]:
    """A server on a free port of loopback, with or without a password; skips the test where none is installed."""
    programs = find_programs()
    if programs is None or (os.getuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}):
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="illada-pg-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Server(programs, folder / "data", port)
    try:
        secret = folder / "password"
        secret.write_text(password or "")
        if os.getuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, "postgres", "postgres")
        access = ["-A", "scram-sha-256", "--pwfile", str(secret)] if password else ["-A", "trust"]
        made.command("initdb", "-D", str(made.data), "-U", "postgres", "--no-sync", *access)
        made.start()
        try:
            yield made
        finally:
            with contextlib.suppress(AssertionError):  # a test may have stopped it
                made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
