"""A Slurm of a test's own: munge, one controller and two nodes, all on loopback, in a folder that goes away with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=EXCLUSIVE
"""


def missing() -> str:
    """Why there can be no Slurm here; empty when there can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if absent:
        return f"needs {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.getuid() == 0 else "slurmd needs root"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slurm:
    """A running Slurm; its commands are run with `environment`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Where Slurm's commands find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str, environment: dict[str, str] | None = None) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(
            command,
            env={**(environment or dict(os.environ)), **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self, job: str) -> str:
        """Of a job, as squeue has it; empty when it is over."""
        return self.ask("squeue", "--noheader", "--states=all", f"--job={job}", "--format=%T").strip()


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Start it, wait for both nodes, and stop it."""
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "state").mkdir()
    probes = [socket.socket() for _ in range(3)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    controller, first, second = (probe.getsockname()[1] for probe in probes)
    for probe in probes:
        probe.close()
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        _CONFIG.format(host=host, folder=folder, controller=controller, first=first, second=second)
    )
    made = Slurm(folder=folder)
    munge = [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "seed-file", "log-file")]
    with contextlib.ExitStack() as running:

        def start(*command: str) -> None:
            path = f"{os.environ['PATH']}:/usr/sbin"
            log = running.enter_context((folder / "daemons.log").open("a"))
            environment = {**os.environ, **made.environment, "PATH": path}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
            running.callback(_stop, process)

        start("munged", "--foreground", "--force", f"--socket={folder}/munge.sock", f"--key-file={key}", *munge)
        deadline = time.monotonic() + 60
        while not (folder / "munge.sock").exists():
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.1)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", "n1")
        start("slurmd", "-D", "-N", "n2")
        while _idle(made) < 2:
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.3)
        yield made


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:  # a node whose controller has gone first waits for it
        process.kill()
        process.wait(timeout=20)


def _idle(made: Slurm) -> int:
    with contextlib.suppress(AssertionError):
        return made.ask("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").count("n")
    return 0
