"""A real Ray cluster on loopback for tests: a head with its job server and two workers, each with its own processes.

Every node has an address of its own in 127.0.0.0/8, and all it starts carries a mark in its environment, by which a
node can be killed like a machine that loses power: all of its processes at once, jobs' drivers included. The cluster
asks for a token, and the nodes know the database's password from their environment only.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WORKERS = 2
CPUS = 2
_MARK = "ILLADA_TEST_NODE"


class RayNodes:
    """The cluster. Node 0 is the head, which runs jobs' drivers and no tasks; `stop` leaves nothing behind."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="il-"))  # short: Ray's sockets live below it
        self.network = f"127.{random.randrange(2, 250)}.{random.randrange(1, 250)}"
        self.port, self.dashboard, self.client = (free_port(self.host(0)) for _ in range(3))
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.mark = secrets.token_hex(8)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "ILLADA_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node that does not answer is dead after a few seconds, not half a minute: the tests wait for it.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_raylet_client_connect_timeout_milliseconds": "50",
            "RAY_raylet_client_num_connect_attempts": "400",
            **(environment or {}),
        }

    @property
    def address(self) -> str:
        """Of the job server."""
        return f"http://{self.host(0)}:{self.dashboard}"

    def host(self, node: int) -> str:
        """The node's address."""
        return f"{self.network}.{node + 1}"

    def start(self) -> None:
        """All nodes."""
        self.start_node(0)
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.start_node, range(1, WORKERS + 1)))

    def start_node(self, node: int) -> None:
        """One node; returns when it is up."""
        role = [f"--address={self.host(0)}:{self.port}", f"--num-cpus={CPUS}"]
        if node == 0:
            role = [
                "--head", f"--port={self.port}", "--num-cpus=0",
                f"--dashboard-host={self.host(0)}", f"--dashboard-port={self.dashboard}",
                f"--ray-client-server-port={self.client}",
            ]  # fmt: skip
        command = [
            str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={self.host(node)}",
            f"--dashboard-agent-listen-port={free_port(self.host(node))}", f"--temp-dir={self.folder}/{node}",
            "--object-store-memory=80000000", "--disable-usage-stats", *role,
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env={**self.environment, _MARK: f"{self.mark}-{node}"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, node: int | None = None) -> dict[int, str]:
        """Everything that runs on a node (or on any), as command lines by pid."""
        mark = f"{_MARK}={self.mark}-{'' if node is None else node}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    marked = any(part.startswith(mark) for part in (entry / "environ").read_bytes().split(b"\0"))
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                except OSError:
                    continue  # gone, or somebody else's
                if marked and command:  # a zombie has no command line
                    found[int(entry.name)] = command
        return found

    def work(self, node: int | None = None) -> dict[int, str]:
        """Processes at work for a job: tasks, actors and ranks; not Ray's own, and not idle workers."""
        rays = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")
        return {
            pid: command
            for pid, command in self.processes(node).items()
            if command.startswith("ray::") and not command.startswith(rays) and "JobSupervisor" not in command
        }

    def kill_node(self, node: int) -> None:
        """As if its power were cut."""
        while pids := list(self.processes(node)):
            kill(pids)
            time.sleep(0.05)

    def stop(self) -> None:
        """End everything."""
        for node in range(WORKERS + 1):
            self.kill_node(node)
        shutil.rmtree(self.folder, ignore_errors=True)


def kill(pids: Sequence[int]) -> None:
    """SIGKILL those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def free_port(host: str) -> int:
    """A port nobody listens at."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
