"""What the durable engine adds to a stage: no-op stages through the engine, against the same tasks on bare Ray.

python benchmarks/overhead.py --stages 50
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from illada.artifacts import Attempt, Progress
from illada.config import Placement
from illada.durable.cluster import connect, run_remote
from illada.durable.database import open_database
from illada.durable.engine import StageRunner, execute
from illada.durable.runs import RunRegistry


def main() -> None:
    """Print medians in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=50)
    stages = parser.parse_args().stages
    with tempfile.TemporaryDirectory() as folder, connect(Placement(ray_cpus=2)):
        bare = _bare(stages)
        local = _engine(Path(folder) / "local", stages, remote=False)
        remote = _engine(Path(folder) / "remote", stages, remote=True)
    milliseconds = {
        "bare_ray_task": statistics.median(bare) * 1e3,
        "stage_in_the_driver": statistics.median(local) * 1e3,
        "stage_as_a_ray_task": statistics.median(remote) * 1e3,
    }
    print(json.dumps({"stages": stages, "median_milliseconds": milliseconds}, indent=1))


def _bare(count: int) -> list[float]:
    import ray

    @ray.remote
    def work() -> None:
        return None

    ray.get(work.remote())
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        ray.get(work.remote())
        taken.append(time.perf_counter() - started)
    return taken


def _build(attempt: Attempt, progress: Progress) -> dict[str, Any]:
    (attempt.output / "one").write_text("1")
    return {}


def _engine(folder: Path, count: int, *, remote: bool) -> list[float]:
    taken = []

    def graph(runner: StageRunner) -> dict[str, Any]:
        for number in range(count):
            started = time.perf_counter()
            build = (lambda attempt, progress: run_remote(_build, attempt, progress=progress)) if remote else _build
            runner.stage(f"stage-{number:03d}", 1, {}, {}, build)
            taken.append(time.perf_counter() - started)
        return {}

    folder.mkdir(parents=True)
    engine = open_database(f"sqlite:///{folder}/illada.db")
    run = RunRegistry(engine).create(folder.name, "", {"stages": count}, str(folder / "store"), [])
    execute(run, engine, graph)
    return taken


if __name__ == "__main__":
    main()
