"""What bfloat16 costs the loss: a configuration's pretraining in both types, on the same windows with the same noise.

Each type trains in a fresh process of one rank, by the product's own loop: in bfloat16 weights, activations and what
ranks exchange of them are bfloat16, while gradients, their reduction, main weights and moments are float32. As both
see the same batches, the difference of their losses is known much better than either; it is given step by step, and as
a mean with its standard error over the last steps.

    illada run configs/workflows/demo.yaml
    python benchmarks/precision.py configs/workflows/demo.yaml --store out/store --to out/bench/precision.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from illada.artifacts import Folder, claim, write_json
from illada.config import Training, TrainPlacement, WorkflowConfig, load_config
from illada.train.metrics import METRICS, read_rows

DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Train twice, print one JSON object; also write it to --to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a workflow configuration that has been run")
    parser.add_argument("--store", type=Path, default=Path("out/store"))
    parser.add_argument("--last", type=int, default=100, help="steps at the end whose mean is taken")
    parser.add_argument("--to", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = load_config(options.config, WorkflowConfig)
    if options.dtype:
        _train(config, _shards(options.store), options.dtype, options.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        losses = {}
        for dtype in DTYPES:
            work = Path(folder) / dtype
            work.mkdir()
            command = [sys.executable, __file__, *sys.argv[1:], "--dtype", dtype, "--work", str(work)]
            subprocess.run(command, check=True, stdout=sys.stderr)
            losses[dtype] = [row["loss"] for row in read_rows(Folder.at(work), METRICS)]
    result = _compared(losses, options.last) | {"machine": platform.processor() or platform.machine()}
    print(json.dumps(result, indent=1))
    if options.to:
        write_json(options.to, result)


def _shards(store: Path) -> Path:
    """The training split of the newest token shards in a store of files."""
    records = sorted((store / "tokenize").glob("*/record.json"), key=lambda record: record.stat().st_mtime)
    if not records:
        sys.exit(f"{store}: has no token shards; run the configuration first, up to the stage `tokenize`")
    return records[-1].parent / json.loads(records[-1].read_text())["attempt"] / "train"


def _train(config: WorkflowConfig, shards: Path, dtype: str, work: Path) -> None:
    import torch.distributed as dist

    from illada.train.job import Job
    from illada.train.process import prepare

    training = Training.model_validate({**config.pretrain.model_dump(), "dtype": dtype})
    job = Job(
        training=training,
        model=config.model,
        placement=TrainPlacement(micro_batch=training.global_batch, checkpoint_steps=10**9),
        shards=Folder.at(shards),
        initial=None,
        work=Folder.at(work),
        domain="pretrain",
        epoch=0,
    )
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous", rank=0, world_size=1)
    prepare()
    from illada.train.loop import run

    claim(job.work, job.epoch)
    run(job)


def _compared(losses: dict[str, list[float]], last: int) -> dict[str, Any]:
    """Means of the last steps and of their differences, relative too, and the largest difference of any step."""
    single, half = (losses[dtype] for dtype in DTYPES)
    gaps = [b - a for a, b in zip(single, half, strict=True)]
    end = gaps[-last:]
    mean = statistics.mean(single[-last:])
    return {
        "steps": len(gaps),
        "float32": mean,
        "bfloat16": statistics.mean(half[-last:]),
        "gap": statistics.mean(end),
        "gap_standard_error": statistics.stdev(end) / math.sqrt(len(end)),
        "relative_gap": statistics.mean(end) / mean,
        "largest_gap_of_a_step": max(gaps, key=abs),
        "over": len(end),
    }


if __name__ == "__main__":
    main()
