"""The Slurm script, executed: two real Ray nodes and a real PostgreSQL on loopback; only Slurm's commands are replaced.

`srun` starts its command here instead of on another node, `scontrol` notes what it was asked. The rest is the script's:
head and workers, database, the run, the end of a time slice, the next slice, and that nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from infra_manifests import BIN, INFRA, ROOT

sys.path.insert(0, str(ROOT / "tests" / "workflows"))
from chain import write_config

SCRIPT = INFRA / "slurm" / "illada.sbatch"

# The second node is this machine too, so what one node has once must differ: ports, and where PostgreSQL refuses root.
STUBS = {
    "srun": """#!/usr/bin/env bash
echo "srun $*" >>"$STUB_LOG"
while [ "${1#--}" != "$1" ]; do shift; done
arguments=()
for argument in "$@"; do [[ $argument == --metrics-export-port=* ]] || arguments+=("$argument"); done
exec "${arguments[@]}" --num-cpus=2 --object-store-memory=100000000
""",
    "scontrol": '#!/usr/bin/env bash\necho "scontrol $*" >>"$STUB_LOG"\n',
    "ray": """#!/usr/bin/env bash
[[ " $* " != *" --head "* ]] || set -- "$@" --num-cpus=2 --object-store-memory=100000000 --temp-dir="$STUB_TEMP"
exec "$STUB_PYTHON" -m ray.scripts.scripts "$@"
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
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURMD_NODENAME": "node01",
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
    result = run_script(job, "my.yaml", "--set", "name=a b")
    assert result.returncode == code
    assert Path(job["STUB_LOG"]).read_text() == f"run my.yaml --set name=a b --ray 127.0.0.1:{job['ILLADA_PORT']}\n"
    assert not (Path(job["ILLADA_HOME"]) / "postgresql").exists()
    assert gone(Path(job["STUB_TEMP"]).parent)


@pytest.mark.slow
@pytest.mark.skipif(postgresql() is None, reason="needs PostgreSQL's server programs")
def test_two_slices_of_one_run(job: dict[str, str], tmp_path: Path) -> None:
    folder = Path(job["STUB_TEMP"]).parent
    config = write_config(tmp_path)
    output = (tmp_path / "first").open("w")
    arguments = ["bash", str(SCRIPT), str(config), "--json"]
    first = subprocess.Popen(arguments, env=job, stdout=subprocess.DEVNULL, stderr=output)
    told = wait_for(lambda: (tmp_path / "first").read_text(), "deduplicate ...", first)
    assert "driving the run on 2 nodes" in told
    first.send_signal(signal.SIGUSR1)
    assert first.wait(timeout=60) == 0
    asked = (folder / "asked").read_text().splitlines()
    port = int(job["ILLADA_PORT"])
    assert asked[0].startswith("srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --exclude=node01 ray start --block ")
    assert f"--address=127.0.0.1:{port}" in asked[0] and asked[1:] == ["scontrol requeue 4242"]
    assert gone(folder), "the slice has left processes behind"
    assert "Ray runtime started" in (folder / "home" / "logs" / "workers.log").read_text()
    for secret in ("ray-token", "postgresql-password"):
        assert (folder / "home" / secret).stat().st_mode & 0o777 == 0o600

    output = (tmp_path / "second").open("w")
    second = subprocess.Popen(arguments, env=job, stdout=subprocess.DEVNULL, stderr=output)
    again = wait_for(lambda: (tmp_path / "second").read_text(), "tokenizer ...", second)
    second.send_signal(signal.SIGTERM)  # scancel
    assert second.wait(timeout=60) == 143
    assert gone(folder)
    assert (folder / "asked").read_text().count("requeue") == 1, "what is cancelled does not come back"
    # what the first slice finished was not done again: its history was in the database, which was stopped and started
    built = [line.partition(":")[0] for line in told.splitlines() if ": done in" in line]
    assert len(built) >= 3
    for stage in built:
        assert f"{stage} ..." not in again
    for secret in ("ray-token", "postgresql-password"):
        assert (folder / "home" / secret).read_text() not in told + again


def gone(folder: Path) -> bool:
    """Whether everything of the job has ended; Ray's agents take a moment to notice that their node has."""
    deadline = time.monotonic() + 20
    while belonging_to(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def wait_for(read: Callable[[], str], text: str, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 240
    while text not in read():
        assert process.poll() is None, read()
        assert time.monotonic() < deadline, read()
        time.sleep(0.3)
    return read()
