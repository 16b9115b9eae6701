"""A Ray cluster, a PostgreSQL with a password and the `illada` command against both, with ways to break each."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
import yaml
from chain import seed, write_config
from postgres_server import Server, private_server
from ray_nodes import RayNodes, kill

from illada.durable.database import open_database
from illada.durable.jobs import JobServer
from illada.durable.package import build_package

HERE = Path(__file__).parent
PASSWORD = "planted-database-password"
OUTAGE_SECONDS = 30.0
FAULTS = ("driver", "supervisor", "worker", "head", "database")


class Bench:
    """What the tests of this folder work on. `config` is the tiny chain; runs differ in id and store only."""

    def __init__(self, nodes: RayNodes, server: Server, folder: Path, corpus: Path) -> None:
        self.nodes = nodes
        self.server = server
        self.folder = folder
        self.config = write_config(folder, corpus)
        open_database(server.url.replace("postgres@", f"postgres:{PASSWORD}@")).dispose()  # which makes its tables
        self._mending = threading.Thread()
        self._mending.start()
        raw = yaml.safe_load(self.config.read_text())
        for stage in ("pretrain", "sft"):
            raw["placement"][stage]["cpus_per_rank"] = 1.5  # a rank on each worker: they need both
        self.config.write_text(yaml.safe_dump(raw))

    @property
    def environment(self) -> dict[str, str]:
        """For commands that reach the cluster and the database."""
        return {
            **os.environ,
            "PGPASSWORD": PASSWORD,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.nodes.token),
            "RAY_API_SERVER_ADDRESS": self.nodes.address,
            "ILLADA_DATABASE": self.server.url,
        }

    def store(self, run: str) -> Path:
        """Where a run's artifacts are."""
        return self.folder / f"store-{run}"

    def seed(self, run: str, store: Path) -> None:
        """Give a run what comes before training, from another run's store, which stays as it is."""
        seed(self.store(run), store, before="pretrain")

    def arguments(self, run: str) -> list[str]:
        """`submit` of the tiny chain under an id."""
        return ["submit", str(self.config), "--run-id", run, "--set", f"placement.store={self.store(run)}"]

    def illada(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command, run to its end."""
        return subprocess.run(
            [sys.executable, "-m", "illada.cli.main", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command at work."""
        process = subprocess.Popen([sys.executable, "-m", "illada.cli.main", *arguments], env=self.environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def job(self, script: str, run: str, *arguments: str) -> None:
        """Start a driver of this folder as a job, with today's code, not looked after by anybody."""
        server = JobServer(self.nodes.address)
        entrypoint = shlex.join(["python", str(HERE / script), str(self.folder), run, *arguments])
        environment = {"working_dir": server.upload(build_package()), "env_vars": {"ILLADA_DATABASE": self.server.url}}
        server.submit(f"{run}-{secrets.token_hex(4)}", f"exec {entrypoint}", environment)

    def state(self, run: str) -> str | None:
        """The run's status, None before it exists."""
        rows = self.query("select status from illada_runs where run_id = %s", run)
        return str(rows[0][0]) if rows else None

    def drivers(self, run: str) -> dict[int, str]:
        """Processes on the head that drive the run, or keep its driver alive."""
        words = {f"drive {run} ", f" {self.folder} {run} "}
        return {
            pid: command
            for pid, command in self.nodes.processes(0).items()
            if any(word in f"{command} " for word in words)
        }

    @contextlib.contextmanager
    def following(self, run: str) -> Iterator[subprocess.Popen[str]]:
        """`illada submit --wait` at work, which also tends the run; its output is in `<run>.log`."""
        with (self.folder / f"{run}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "illada.cli.main", *self.arguments(run), "--wait"],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def log(self, run: str) -> str:
        """What `following` printed, and the jobs did: for a failed assertion."""
        jobs = sorted((self.nodes.folder / "0").glob(f"session_*/logs/job-driver-illada-{run}-*"))
        texts = [path for path in (self.folder / f"{run}.log", *jobs[-3:]) if path.exists()]
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in texts)

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the run database."""
        with psycopg.connect(self.server.url, password=PASSWORD, autocommit=True) as connection:
            return connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def database(self) -> Iterator[sa.Engine]:
        """The run database, for what the command line cannot do."""
        engine = open_database(self.server.url)
        try:
            yield engine
        finally:
            engine.dispose()

    def ray(self, *arguments: str) -> None:
        """Ray's own command."""
        command = [str(Path(sys.executable).with_name("ray")), *arguments]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=120)

    def wait_until_built(self, run: str, stage: str, process: subprocess.Popen[str], seconds: float = 300) -> float:
        """Until the stage's build is at work in a living driver; the time of that."""
        deadline = time.monotonic() + seconds
        sql = (
            "select state, attempt, holder from illada_stages join illada_leases using (run_id) "
            "where run_id = %s and stage = %s"
        )
        with psycopg.connect(self.server.url, password=PASSWORD, autocommit=True) as connection:
            while True:
                rows = connection.execute(sql, (run, stage)).fetchall()
                if rows and rows[0][0] == "running" and rows[0][1] > 0 and alive(pid_of(rows[0][2])):
                    break
                assert not rows or rows[0][0] not in ("done", "reused"), f"{stage} was over before it was looked at"
                assert process.poll() is None, f"ended before {stage}\n{self.log(run)}"
                assert time.monotonic() < deadline, f"{stage} was not reached\n{self.log(run)}"
                time.sleep(0.01)
        time.sleep(0.02)  # into the work, of which some stages here have a tenth of a second
        return time.monotonic()

    def driver(self, run: str) -> int:
        """The pid of the process that holds the run."""
        ((holder,),) = self.query("select holder from illada_leases where run_id = %s", run)
        return pid_of(holder)

    def strike(self, fault: str, run: str) -> None:
        """One fault, until it has had its effect; what mends it has begun."""
        driver = self.driver(run)
        if fault in ("supervisor", "head"):
            os.kill(driver, signal.SIGSTOP)  # it dies within the second: many a stage here would be over before
        if fault == "driver":
            kill([driver])
        elif fault == "supervisor":
            kill([pid for pid, command in self.nodes.processes(0).items() if "JobSupervisor" in command])
        elif fault == "worker":
            self._mending.join()
            node = next((node for node in (1, 2) if self.nodes.work(node)), 1)
            self.nodes.kill_node(node)
            self._mending = threading.Thread(target=self.nodes.start_node, args=(node,))
            self._mending.start()
        elif fault == "head":
            os.kill(driver, signal.SIGSTOP)  # nodes die one after another, and a short stage may end meanwhile
            self._mending.join()
            for node in range(3):
                self.nodes.kill_node(node)
            self.nodes.start()
        else:
            self.server.stop()
            time.sleep(OUTAGE_SECONDS)
            self.server.start()
        while fault in ("driver", "supervisor", "head") and alive(driver):
            time.sleep(0.02)

    def run_with_faults(self, run: str, plan: Mapping[str, str]) -> dict[str, float]:
        """Submit, strike once in the middle of each stage of `plan`, follow to the end; seconds from each fault until
        its stage is published."""
        struck: dict[str, float] = {}
        with self.following(run) as process:
            for stage, fault in plan.items():
                struck[stage] = self.wait_until_built(run, stage, process)
                self.strike(fault, run)
            assert process.wait(timeout=300) == 0, self.log(run)
        self._mending.join()
        offset = time.time() - time.monotonic()
        records = {path.parent.parent.name: path for path in self.store(run).glob("*/*/record.json")}
        return {stage: records[stage].stat().st_mtime - offset - at for stage, at in struck.items()}


def pid_of(holder: str) -> int:
    """The process in a lease's holder; 0 for nobody."""
    words = holder.split(" ")
    return int(words[1]) if len(words) > 1 else 0


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def bench(corpus: Path) -> Iterator[Bench]:
    """A bench on machines of its own, as far as loopback goes; its runs are of `corpus`."""
    with tempfile.TemporaryDirectory(prefix="illada-cluster-") as folder, private_server(PASSWORD) as server:
        nodes = RayNodes({"PGPASSWORD": PASSWORD})
        try:
            nodes.start()
            yield Bench(nodes, server, Path(folder), corpus)
        finally:
            nodes.stop()
