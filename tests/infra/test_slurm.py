"""The Slurm script under a real Slurm: controller and two nodes on loopback, real Ray on both, a real PostgreSQL.

The nodes are one machine, so `ray` is wrapped to give the second one ports of its own, and PostgreSQL's programs are
where tests run as root, which it refuses. All else is the script's: head and workers, database, the run, the end of a
time slice, the next slice, cancellation, and that nothing is left behind. That test needs Debian's slurmctld, slurmd,
slurm-client and munge, and root, which slurmd wants.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chain import write_config
from infra_manifests import BIN, INFRA, ROOT
from infra_slurm import Slurm, missing, slurm

SCRIPT = INFRA / "slurm" / "illada.sbatch"

STUBS = {
    "ray": """#!/usr/bin/env bash
arguments=()
for argument in "$@"; do
    [[ " $* " == *" --address"* && $argument == --metrics-export-port=* ]] || arguments+=("$argument")
done
if [ "$1" = start ]; then
    arguments+=(--num-cpus=2 --object-store-memory=100000000)
    [[ " $* " != *" --head "* ]] || arguments+=(--temp-dir="$STUB_TEMP")
fi
exec "$STUB_PYTHON" -m ray.scripts.scripts "${arguments[@]}"
""",
    "illada": '#!/usr/bin/env bash\nexec "$STUB_PYTHON" -m illada.cli.main "$@"\n',
    "pg_config": '#!/usr/bin/env bash\necho "$STUB_POSTGRESQL"\n',
}
POSTGRESQL_AS_ROOT = {
    "initdb": """#!/usr/bin/env bash
install -d -o postgres -m 700 "$ILLADA_HOME/postgresql"
install -o postgres -m 600 "$ILLADA_HOME/postgresql-password" "$STUB_TEMP/password"
exec setpriv --reuid=postgres --regid=postgres --clear-groups "$STUB_REAL/initdb" "$@" --pwfile="$STUB_TEMP/password"
""",
    "postgres": """#!/usr/bin/env bash
exec setpriv --reuid=postgres --regid=postgres --clear-groups "$STUB_REAL/postgres" "$@"
""",
    "pg_isready": '#!/usr/bin/env bash\nexec "$STUB_REAL/pg_isready" "$@"\n',
}


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def free_ports() -> int:
    """The first of three free ports in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


def postgresql() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment Slurm would give the script, on two nodes; short paths, since Ray's sockets lie below them."""
    folder = Path(tempfile.mkdtemp(prefix="slm", dir="/tmp"))
    folder.chmod(0o755)
    for name, text in STUBS.items():
        executable(folder / "bin" / name, text)
    real = postgresql()
    if real and os.getuid() == 0:
        for name, text in POSTGRESQL_AS_ROOT.items():
            executable(folder / "pg" / name, text)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ILLADA_", "SLURM"))},
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ILLADA_HOME": str(folder / "home"),
        "ILLADA_ADDRESS": "127.0.0.1",
        "ILLADA_PORT": str(free_ports()),
        "ILLADA_METRICS_PORT": str(free_ports()),
        "STUB_LOG": str(folder / "asked"),
        "STUB_TEMP": str(folder / "ray"),
        "STUB_PYTHON": sys.executable,
        "STUB_REAL": str(real),
        "STUB_POSTGRESQL": str(folder / "pg" if os.getuid() == 0 else real),
    }
    (folder / "ray").mkdir()
    (folder / "ray").chmod(0o777)
    (folder / "home").mkdir()
    yield environment
    for process in belonging_to(folder):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def belonging_to(folder: Path) -> list[psutil.Process]:
    """Processes that were started with this job's environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STUB_TEMP") == str(folder / "ray"):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def run_script(job: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=job, capture_output=True, text=True, timeout=300, check=False)


def test_shellcheck_has_no_complaint() -> None:
    scripts = [path for path in INFRA.rglob("*") if path.suffix in (".sh", ".sbatch")]
    assert SCRIPT in scripts
    command = [BIN / "shellcheck", *scripts, ROOT / ".ci" / "run"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_options_for_slurm_come_before_any_command() -> None:
    """sbatch stops looking at the first line that is neither a comment nor empty."""
    lines = SCRIPT.read_text().splitlines()
    body = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(options) >= 6 and max(options) < body


def test_without_a_configuration(job: dict[str, str]) -> None:
    result = run_script(job)
    assert result.returncode == 2 and "usage: sbatch" in result.stderr


def test_ray_that_does_not_start(job: dict[str, str]) -> None:
    executable(Path(job["PATH"].partition(":")[0]) / "ray", "#!/bin/sh\nexit 3\n")
    result = run_script({**job, "ILLADA_DATABASE": "sqlite:////nowhere/x.db"}, "my.yaml")
    assert result.returncode == 1 and "Ray's head did not start" in result.stderr
    assert "driving the run" not in result.stderr


@pytest.mark.parametrize("code", [0, 7])
def test_the_runs_exit_code_is_the_jobs(job: dict[str, str], code: int) -> None:
    programs = Path(job["PATH"].partition(":")[0])
    executable(programs / "ray", '#!/bin/sh\n[ "$1" = status ] || exec sleep 600\n')
    executable(programs / "srun", "#!/bin/sh\nexec sleep 600\n")
    executable(programs / "illada", f'#!/bin/sh\necho "$@" >"$STUB_LOG"\nexit {code}\n')
    job["ILLADA_DATABASE"] = "postgresql://somewhere/else"
    job |= {"SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "n1"}
    result = run_script(job, "my.yaml", "--set", "name=a b")
    assert result.returncode == code
    assert Path(job["STUB_LOG"]).read_text() == f"run my.yaml --set name=a b --ray 127.0.0.1:{job['ILLADA_PORT']}\n"
    assert not (Path(job["ILLADA_HOME"]) / "postgresql").exists()
    assert gone(Path(job["STUB_TEMP"]).parent)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.skipif(postgresql() is None, reason="needs PostgreSQL's server programs (Debian: postgresql)")
def test_slices_of_one_run(job: dict[str, str], tmp_path: Path) -> None:
    folder, output = Path(job["STUB_TEMP"]).parent, tmp_path / "output"
    config = write_config(tmp_path)
    controller = folder / "slurm"
    controller.mkdir()
    with slurm(controller) as cluster:
        submitted = ["sbatch", "--parsable", "--nodes=2", "--time=60", f"--output={output}", str(SCRIPT), str(config)]
        number = cluster.ask(*submitted, environment=job).strip()
        told = wait_for(output, "deduplicate ...", cluster, number)
        assert "driving the run on 2 nodes" in told
        # what Slurm sends five minutes before the end of the allocation
        cluster.ask("scancel", "--signal=USR1", "--batch", number)
        again = wait_for(output, "tokenizer ...", cluster, number).removeprefix(told)
        assert "out of time: stopping, and back into the queue" in again
        _, requeued, second = again.partition("driving the run on 2 nodes")
        assert requeued, "the second slice has not begun"
        workers = (folder / "home" / "logs" / "workers.log").read_text()
        assert workers.count("Local node IP") == 2  # one on the other node in each slice
        cluster.ask("scancel", number)
        deadline = time.monotonic() + 60
        while cluster.state(number) not in ("CANCELLED", ""):
            assert time.monotonic() < deadline, cluster.state(number)
            time.sleep(0.3)
        assert gone(folder), "the job has left processes behind"
    # what the first slice finished was not done again: its history was in the database, which was stopped and started
    built = [line.partition(":")[0] for line in told.splitlines() if ": done in" in line]
    assert len(built) >= 3
    for stage in built:
        assert f"{stage} ..." not in second
    for secret in ("ray-token", "postgresql-password"):
        path = folder / "home" / secret
        assert path.stat().st_mode & 0o777 == 0o600 and path.read_text() not in output.read_text()


def gone(folder: Path) -> bool:
    """Whether everything of the job has ended; Ray's agents take a moment to notice that their node has."""
    deadline = time.monotonic() + 20
    while belonging_to(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def wait_for(output: Path, text: str, cluster: Slurm, number: str) -> str:
    """The job's output once it has `text`."""
    deadline = time.monotonic() + 240
    while text not in (told := output.read_text() if output.exists() else ""):
        state = cluster.state(number)
        assert state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"), f"{state}: {told}"
        assert time.monotonic() < deadline, f"{state}: {told}"
        time.sleep(0.3)
    return told
