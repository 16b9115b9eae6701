"""What the durable engine adds to a stage: no-op stages through the engine, against the same tasks on bare Ray.

python benchmarks/overhead.py --stages 50 --rounds 5

A stage's task writes one small file. Bare Ray runs it as a task; the engine runs it as a stage whose build is such a
task (`stage_as_a_ray_task`), and as one that is built by the driver itself. With SQLite, and with a PostgreSQL started
for this where the distribution has one installed; both with their usual durability. Prints JSON: least, median and
greatest over all stages of all rounds, the median of each round, and what the engine adds to Ray's median.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import pwd
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from illada.artifacts import Attempt, NoProgress, Progress
from illada.config import Placement
from illada.durable.cluster import connect, run_remote
from illada.durable.database import open_database
from illada.durable.engine import StageRunner, execute
from illada.durable.runs import RunRegistry


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=50, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    taken: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name, connect(Placement(ray_cpus=2)), _postgresql() as postgresql:
        for number in range(options.rounds):
            folder = Path(name) / str(number)
            taken.setdefault("bare_ray_task", []).append(_bare(folder / "bare", options.stages))
            databases = {"sqlite": f"sqlite:///{folder}/illada.db", "postgresql": postgresql}
            for database, url in databases.items():
                if url is not None:
                    for place, remote in (("stage_in_the_driver", False), ("stage_as_a_ray_task", True)):
                        key = f"{place}_{database}"
                        taken.setdefault(key, []).append(_engine(folder / key, url, options.stages, remote=remote))
    figures = {key: _figures(rounds) for key, rounds in taken.items()}
    ray = figures["bare_ray_task"]["median"]
    added = {key: round(row["median"] - ray, 1) for key, row in figures.items() if key.startswith("stage_as")}
    report = {
        "machine": {
            "processors": os.cpu_count(),
            "load_before_and_after": [load, os.getloadavg()[0]],
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("ray", "dbos", "sqlalchemy", "psycopg")},
        },
        "stages": options.stages,
        "rounds": options.rounds,
        "milliseconds": figures,
        "milliseconds_beyond_ray": added,
    }
    print(json.dumps(report, indent=1))


def _figures(rounds: list[list[float]]) -> dict[str, Any]:
    every = [seconds * 1e3 for taken in rounds for seconds in taken]
    return {
        "least": round(min(every), 1),
        "median": round(statistics.median(every), 1),
        "greatest": round(max(every), 1),
        "median_of_each_round": [round(statistics.median(taken) * 1e3, 1) for taken in rounds],
    }


def _bare(folder: Path, count: int) -> list[float]:
    import ray

    task = ray.remote(_write)
    ray.get(task.remote(folder / "warm"))
    taken = []
    for number in range(count):
        started = time.perf_counter()
        ray.get(task.remote(folder / str(number)))
        taken.append(time.perf_counter() - started)
    return taken


def _write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "one").write_text("1")


def _build(attempt: Attempt, progress: Progress) -> dict[str, Any]:
    _write(attempt.output)
    return {}


def _engine(folder: Path, url: str, count: int, *, remote: bool) -> list[float]:
    taken = []

    def graph(runner: StageRunner) -> dict[str, Any]:
        for number in range(count):
            started = time.perf_counter()
            build = (lambda attempt, progress: run_remote(_build, attempt, progress=progress)) if remote else _build
            runner.stage(f"stage-{number:03d}", 1, {}, {}, build)
            taken.append(time.perf_counter() - started)
        return {}

    if remote:
        run_remote(_idle, progress=NoProgress())  # Ray has started a process for such tasks
    folder.mkdir(parents=True)
    engine = open_database(url)
    run_id = f"{folder.parent.name}-{folder.name}"
    run = RunRegistry(engine).create(run_id, "", {"stages": count}, str(folder / "store"), [])
    execute(run, engine, graph)
    engine.dispose()
    return taken


def _idle(progress: Progress) -> dict[str, Any]:
    return {}


@contextlib.contextmanager
def _postgresql() -> Iterator[str | None]:
    """The URL of a private server, which refuses to be run by root and then runs as the user `postgres`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    if initdb is None:
        yield None
        return
    programs = Path(initdb).resolve().parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, user)

        def command(*arguments: str) -> None:
            subprocess.run(arguments, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        data, control = f"{folder}/data", str(programs / "pg_ctl")
        command(str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        command(control, "-D", data, "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            command(control, "-D", data, "-m", "immediate", "stop")


if __name__ == "__main__":
    main()
