"""Wall time of the demo by stage and the peak memory of all its processes together, from an empty store.

python benchmarks/demo.py --to out/bench/demo.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the demo in a fresh folder, then once more over the finished store; print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "workflows" / "demo.yaml")
    parser.add_argument("--to", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = _run(arguments.config.resolve(), Path(folder))
        second = _run(arguments.config.resolve(), Path(folder))
    result = {"first": first, "again": second, "cores": os.cpu_count()}
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.to:
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        arguments.to.write_text(text + "\n")


def _run(config: Path, folder: Path) -> dict[str, object]:
    started = time.monotonic()
    command = [sys.executable, "-m", "illada.cli.main", "run", str(config), "--json"]
    with (folder / "stdout").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.25)
    if process.returncode:
        sys.exit(f"the run failed with exit code {process.returncode}")
    summary = json.loads((folder / "stdout").read_text())
    return {
        "seconds": round(time.monotonic() - started, 1),
        "seconds_by_stage": summary["seconds"],
        "peak_memory_mb": round(peak / 2**20),
        "held_out": summary["held_out"],
    }


def _memory(root: int) -> int:
    """Bytes of proportional set size of the process and its descendants: shared pages are counted once."""
    try:
        processes = [psutil.Process(root)]
        processes += processes[0].children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    main()
