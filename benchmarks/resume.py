"""Time to resume after `kill -9` of the driver in the middle of pretraining: to the first new update on record.

python benchmarks/resume.py --to out/bench/resume.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Start the run, kill its driver after the first checkpoint, resume, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "workflows" / "demo.yaml")
    parser.add_argument("--to", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = _illada(folder, "run", str(arguments.config.resolve()), "--run-id", "resume-benchmark")
        _wait(first, lambda: bool(_checkpoints(folder)))
        first.send_signal(signal.SIGKILL)
        first.wait()
        killed = time.time()
        second = _illada(folder, "resume", "resume-benchmark")
        _wait(second, lambda: _updated_after(folder, killed))
        seconds = time.time() - killed
        starts = [row for row in _events(folder) if row["event"] == "start"]
        second.send_signal(signal.SIGINT)
        second.wait()
    result = {
        "seconds_to_first_update": round(seconds, 1),
        "resumed_from": starts[-1]["resumed_from"],
        "cores": os.cpu_count(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.to:
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        arguments.to.write_text(text + "\n")


def _illada(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    log = (folder / "log").open("ab")
    command = [sys.executable, "-m", "illada.cli.main", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def _wait(process: subprocess.Popen[bytes], reached) -> None:  # type: ignore[no-untyped-def]
    while not reached():
        if process.poll() is not None:
            sys.exit(f"the run ended early with exit code {process.returncode}")
        time.sleep(0.05)


def _work(folder: Path) -> list[Path]:
    return list(folder.glob("out/store/pretrain/*/work"))


def _checkpoints(folder: Path) -> list[Path]:
    return [path for work in _work(folder) for path in work.glob("checkpoints/step-*")]


def _events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for work in _work(folder) for line in (work / "events.jsonl").read_text().splitlines()]


def _updated_after(folder: Path, moment: float) -> bool:
    """Whether a start was recorded after `moment` and the metrics have grown since."""
    starts = [float(str(row["time"])) for row in _events(folder) if row["event"] == "start"]
    metrics = [work / "metrics.jsonl" for work in _work(folder)]
    return starts[-1] > moment and any(path.exists() and path.stat().st_mtime > starts[-1] for path in metrics)


if __name__ == "__main__":
    main()
