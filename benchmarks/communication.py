"""What ranks send to one another in a training step, counted, against the least that each kind of parallelism needs.

Every collective call of a step of the product's loop is seen by a dispatch mode in each rank. A call counts as what the
best algorithm sends from a rank (Thakur et al., "Optimization of collective communication operations in MPICH", 2005):
(p - 1) / p of the whole for a gather or a reduce-scatter over p ranks, twice that for an all-reduce, all of it for a
message. The least is, of the rank that sends most:

tensor    two gathers and two reduce-scatters of the activations a layer, forward and backward (Korthikanti et al.,
          arXiv 2205.05198), one more pair around the layers: scattered embeddings, gathered hidden states
pipeline  the activations of each micro-batch once and their gradients once, and one reduction of the tied embedding
data      one reduce-scatter of float32 gradients and one gather of weights (ZeRO, arXiv 1910.02054)

    python benchmarks/communication.py --to out/bench/communication.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.utils._python_dispatch import TorchDispatchMode
from training_setup import Case, write_shards

from illada.artifacts import Folder, claim, write_json
from illada.config import ModelConfig, TrainPlacement
from illada.model.arithmetic import parameters
from illada.train.job import Job
from illada.train.process import prepare

MODEL = ModelConfig(layers=4, hidden_size=256, heads=4, kv_heads=4, ffn_size=768, vocab_size=8192, max_positions=256)
CASE = Case(name="communication", model=MODEL, dtype="bfloat16", window=256, batch=8, micro_batch=2)
LAYOUTS = [{}, *({kind: ranks} for kind in ("tensor", "pipeline", "data") for ranks in (2, 4))]
SHARES: dict[str, Callable[[int], float]] = {
    "allreduce_": lambda p: 2 * (p - 1) / p,
    "_allgather_base_": lambda p: (p - 1) / p,
    "allgather_into_tensor_coalesced_": lambda p: (p - 1) / p,
    "_reduce_scatter_base_": lambda p: (p - 1) / p,
    "reduce_scatter_tensor_coalesced_": lambda p: (p - 1) / p,
    "send": lambda p: 1.0,
}
STEPS = 2
WEIGHT_BYTES = 2  # of bfloat16


def main() -> None:
    """Run every layout, print and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("out/bench/communication.json"))
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", CASE, 64)
        for number, layout in enumerate(LAYOUTS):
            work = Path(folder) / f"work-{number}"
            work.mkdir()
            placement = TrainPlacement(micro_batch=CASE.micro_batch, checkpoint_steps=10**9, **layout)
            torch.multiprocessing.spawn(_rank, (Path(folder), work, placement), nprocs=placement.ranks)
            ranks = [json.loads((work / f"{rank}.json").read_text()) for rank in range(placement.ranks)]
            sent, least = max(rank["bytes"] for rank in ranks), _least(placement)
            ratio = sent / least if least else None
            found.append({"layout": layout, "bytes": sent, "least": least, "ratio": ratio, "ranks": ranks})
            print(json.dumps({key: found[-1][key] for key in ("layout", "bytes", "least", "ratio")}))
    write_json(options.to, {"model": MODEL.identity(), "window": CASE.window, "batch": CASE.batch, "layouts": found})


def _least(placement: TrainPlacement) -> float:
    """Bytes that the rank that sends most has to send in a step."""
    activations = CASE.batch // placement.data * CASE.window * MODEL.hidden_size * WEIGHT_BYTES
    if placement.tensor > 1:
        return (8 * MODEL.layers + 4) * activations * SHARES["_allgather_base_"](placement.tensor)
    if placement.pipeline > 1:
        embedding = MODEL.vocab_size * MODEL.hidden_size * 4
        middle = 2 * activations if placement.pipeline > 2 else 0
        return max(middle, activations + embedding * SHARES["allreduce_"](2))
    if placement.data > 1:
        return parameters(MODEL).total * (4 + WEIGHT_BYTES) * SHARES["_allgather_base_"](placement.data)
    return 0.0


class _Traffic(TorchDispatchMode):
    """Adds up what this rank sends inside `with`, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func.namespace == "c10d":
            name = func._opname
            group = next(dist.ProcessGroup.unbox(a) for a in args if isinstance(a, torch.ScriptObject))
            self.calls[name] += 1
            if name in SHARES:
                whole = args[1] if "reduce_scatter" in name else args[0]
                size = sum(tensor.nbytes for tensor in (whole if isinstance(whole, list) else [whole]))
                self.sent[name] += round(size * SHARES[name](group.size()))
        return func(*args, **(kwargs or {}))


def _rank(rank: int, folder: Path, work: Path, placement: TrainPlacement) -> None:
    job = Job(
        training=CASE.training(STEPS),
        model=MODEL,
        placement=placement,
        shards=Folder.at(folder / "shards"),
        initial=None,
        work=Folder.at(work),
        domain="train",
        epoch=0,
    )
    dist.init_process_group("gloo", init_method=f"file://{work}/store", rank=rank, world_size=placement.ranks)
    prepare()
    from illada.train import loop, saver, stepper

    saver.Saver.begin = lambda *_: None  # checkpoints are no part of a step
    step = stepper.Stepper.step
    traffic = _Traffic()

    def watched(self: Any, number: int) -> Any:
        if number < STEPS - 1:
            return step(self, number)
        with traffic:
            return step(self, number)

    stepper.Stepper.step = watched  # type: ignore[method-assign]
    if rank == 0:
        claim(job.work, job.epoch)
    dist.barrier()
    loop.run(job)
    result = {"bytes": sum(traffic.sent.values()), "sent": traffic.sent, "calls": traffic.calls}
    (work / f"{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
