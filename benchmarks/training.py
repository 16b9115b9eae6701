"""Our trainer against the published LLaDA loss loop and dllm's, and against the limit of the machine.

    make bench-training
    python benchmarks/training.py --cases 100M-bfloat16 --dllm FOLDER

For each case (a model and a dtype): tokens a second of each loop (`training_loops.py`) on the same windows and, for the
published one, the same masks, each round in a fresh process, rounds alternated, in two threads; their peak memory; the
machine's best matrix product in the same run, and what part of it our useful operations are (forward and backward of
the body on all positions and of the head on masked ones, `illada.model.arithmetic`). One JSON object a case goes to
--out. dllm's code is no part of this repository: --dllm names a folder with its checkout; its requirements
`accelerate`, `peft` and `torchmetrics` have to be importable.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training_setup import CASES, Case, write_shards

from illada.artifacts import write_json
from illada.model.arithmetic import parameters, token_flops

SHOWN = ("ratio", "utilisation", "cpu_ratio", "cpu_utilisation", "memory_ratio", "load")
LOOPS = Path(__file__).with_name("training_loops.py")


def main() -> None:
    """Measure the cases one after another; a JSON file and a line of text for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a round, after one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dllm", type=Path, help="checkout of ZHZisZZ/dllm")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    for name in options.cases:
        result = _measure(CASES[name], options)
        write_json(options.out / f"training-{name}.json", result)
        print(json.dumps({name: {key: result[key] for key in SHOWN}}))


def _measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    roles = ["illada", "published", *(["dllm"] if options.dllm else [])]
    rounds: dict[str, list[dict[str, Any]]] = {role: [] for role in ("gemm", *roles)}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", case)
        for turn in range(options.rounds):
            for role, found in rounds.items():
                arguments = ["--case", case.name, "--role", role, "--folder", folder, "--turn", str(turn)]
                arguments += ["--steps", str(options.steps), "--threads", str(options.threads)]
                arguments += ["--dllm", str(options.dllm)] if role == "dllm" else []
                command = [sys.executable, str(LOOPS), *arguments]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"the {role} round of {case.name} failed:\n{done.stderr}")
                found.append(json.loads(done.stdout.splitlines()[-1]))
    load.append(os.getloadavg()[0])
    gemm = rounds.pop("gemm")
    peak, cpu_peak = (max(found[name] for found in gemm) for name in ("flops", "flops_per_cpu_second"))
    rates = {role: [found["tokens_per_second"] for found in runs] for role, runs in rounds.items()}
    cpu = {role: statistics.median(found["tokens_per_cpu_second"] for found in runs) for role, runs in rounds.items()}
    memory = {role: max(found["peak_bytes"] for found in runs) for role, runs in rounds.items()}
    median = {role: statistics.median(values) for role, values in rates.items()}
    masked = statistics.fmean(found["masked"] for found in rounds["illada"])
    useful = token_flops(case.model, attended=case.window, masked=masked).training
    return {
        "case": case.name,
        "model": case.model.identity(),
        "parameters": parameters(case.model).total,
        "window": case.window,
        "batch": case.batch,
        "dtype": case.dtype,
        "threads": options.threads,
        "tokens_per_second": rates,
        "ratio": {role: median["illada"] / median[role] for role in roles if role != "illada"},
        "tokens_per_cpu_second": cpu,
        "cpu_ratio": {role: cpu["illada"] / cpu[role] for role in roles if role != "illada"},
        "masked_fraction": masked,
        "useful_flops_per_token": useful,
        "gemm_flops": peak,
        "utilisation": useful * median["illada"] / peak,
        "cpu_utilisation": useful * cpu["illada"] / cpu_peak,
        "peak_bytes": memory,
        "memory_ratio": {role: memory[role] / memory["illada"] for role in roles if role != "illada"},
        "loader_share": max(found["loader_share"] for found in rounds["illada"]),
        "load": load,
        "versions": {name: version(name) for name in ("torch", "transformers", "megatron-core")},
    }


if __name__ == "__main__":
    main()
