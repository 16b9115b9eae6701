"""A stage on a cluster that grows: ``python growing_driver.py ADDRESS FOLDER``. Prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray

from illada.artifacts import Folder, NoProgress
from illada.config import DataPlacement
from pipelines.pool import Unit, run_units

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
WORKERS, PATIENCE_SECONDS = 2, 60.0


class Slow:
    """Takes a second, and tells on which node."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        time.sleep(1)
        return {"node": ray.get_runtime_context().get_node_id()}


def nodes() -> int:
    return sum(1 for node in ray.nodes() if node["Alive"])


def main(address: str, folder: str) -> None:
    """Run a stage, and wait until the nodes that came for it are gone."""
    ray.init(address, log_to_driver=False)
    before, seen, over = nodes(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(nodes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        units = [Unit(name=f"u{n:02d}", payload={}) for n in range(30)]
        results = run_units(units, Slow, Folder.at(folder), DataPlacement(workers=WORKERS), NoProgress(), "units")
        used = {result.statistics["node"] for result in results}
        end = time.monotonic() + PATIENCE_SECONDS
        while nodes() > before and time.monotonic() < end:
            time.sleep(0.5)
    finally:
        over.set()
        watcher.join()
    print(json.dumps({"before": before, "used": len(used), "most": max(seen), "after": nodes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
