"""Does it learn: masked diffusion and the autoregressive baseline, by the trainer, on the same windows of real text.

Pages go through the real chain (`illada run`) as far as token shards and conversations. Then, each in a process of one
rank: both objectives, for one epoch and for many of the same windows, and fine-tuning of the masked model on the
conversations. Every checkpoint is exported and evaluated on the same held-out windows: the masked model's bound with
the same masks, the baseline's exact likelihood, and that of a unigram model of the same training tokens.

python benchmarks/learning.py --warc 'crawl/*.warc.gz' --conversations 'chat/*.jsonl' --to out/bench/learning.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learning_text import VOCABULARY, part_of, run_chain, text_bytes, unigram

from illada.artifacts import Folder, NoProgress, Store, claim, write_json, write_text
from illada.config import Evaluate, ModelConfig, Objective, Schedule, Training, TrainPlacement
from illada.data.shards import TokenShards
from illada.data.windows import Windows

KINDS = {"masked": "bidirectional", "autoregressive": "causal"}
SETTINGS = {"masked": {"levels": "stratified", "eps": 0.05}, "autoregressive": {}}
"""With batches of a thousand tokens a weight of 1 / eps = 1000 would be all there is of a gradient."""


def main() -> None:
    """Everything; prints and writes one JSON object, and a Markdown table beside it."""
    options = _options()
    result: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k not in ("to", "store")}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = Store(options.store or folder / "store")
        if not store.artifacts("pairs"):
            run_chain(options.warc, options.conversations, _model(options, "masked"), folder, Path(str(store.root)))
        tokens, conversations, tokenizer = (
            store.artifacts(stage)[-1].local() for stage in ("tokenize", "pairs", "tokenizer")
        )
        windows, talk = (
            Windows(TokenShards.open(shards / "train"), options.window) for shards in (tokens, conversations)
        )
        part = part_of(windows, len(windows) // options.part, folder / "part")
        tuning = part_of(talk, min(options.tuning_windows, len(talk)), folder / "conversations")
        held_out = {"text": tokens / "held_out", "conversations": conversations / "held_out"}
        taken = Windows(TokenShards.open(part), options.window)
        result["data"] = {
            "windows": len(taken),
            "tokens": len(taken) * options.window,
            "bytes": text_bytes(taken, tokenizer),
            "unigram_bits_per_byte": {
                name: unigram(TokenShards.open(train), held_out[name], tokenizer, options.window, options.windows)
                for name, train in (("text", part), ("conversations", tuning))
            },
        }
        many = f"{options.epochs} epochs"
        pretraining = {"one epoch": {"epochs": 1}, many: {"epochs": options.epochs}}
        plan: list[tuple[str, str, Path, Path, dict[str, Any]]] = [
            (f"{kind}, {length}", kind, part, held_out["text"], how)
            for length, how in pretraining.items()
            for kind in KINDS
        ]
        fine_tuning = {"epochs": 12, "initial": f"masked, {many}"}
        plan.insert(3, ("masked, fine-tuned", "masked", tuning, held_out["conversations"], fine_tuning))
        result["machine"] = f"{platform.machine()}, one thread a process"
        result["runs"] = {}
        for name, kind, train, measured, how in plan:
            result["runs"][name] = _learn(
                name, kind, train, measured, options=options, tokenizer=tokenizer, folder=folder, **how
            )
            if options.to:  # what there is, should the rest be cut short
                write_json(options.to, result)
                write_text(options.to.with_suffix(".md"), _table(result))
    print(json.dumps(result, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warc", nargs="+", required=True, help="pages to train on")
    parser.add_argument("--conversations", nargs="+", required=True, help="JSON lines to fine-tune on")
    parser.add_argument("--store", type=Path, help="of an earlier run of this: its data are used again")
    for name, default in (
        ("layers", 4), ("hidden", 192), ("heads", 4), ("ffn", 512), ("window", 128), ("batch", 8), ("part", 3),
        ("epochs", 4), ("tuning-windows", 500), ("windows", 128), ("draws", 4),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("peak", 1e-3), ("tuning-peak", 1e-4)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--to", type=Path, help="also write the JSON here, and a table as .md")
    return parser.parse_args()


def _model(options: argparse.Namespace, kind: str) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "layers": options.layers,
            "hidden_size": options.hidden,
            "heads": options.heads,
            "kv_heads": options.heads,
            "ffn_size": options.ffn,
            "vocab_size": VOCABULARY,
            "max_positions": options.window,
            "init_std": options.hidden**-0.5,
            "attention": KINDS[kind],
        }
    )


def _learn(
    name: str,
    kind: str,
    train: Path,
    held_out: Path,
    *,
    epochs: int,
    options: argparse.Namespace,
    tokenizer: Path,
    folder: Path,
    initial: str | None = None,
) -> dict[str, Any]:
    """Train, then evaluate a checkpoint of every epoch, or four of one."""
    steps = epochs * len(Windows(TokenShards.open(train), options.window)) // options.batch
    every = -(-steps // (epochs if epochs > 1 else 4))
    peak = options.tuning_peak if initial else options.peak
    schedule = {"peak": peak, "minimum": peak / 10, "warmup_steps": min(50, steps // 10)}
    tail = {"decay": "linear", "decay_fraction": 0.1} if initial else {"decay": "cosine", "decay_fraction": 0.4}
    training = Training(
        window=options.window,
        global_batch=options.batch,
        epochs=epochs,
        dtype=options.dtype,
        objective=Objective.model_validate({"kind": kind, "random_split": 0.0, **SETTINGS[kind]}),
        schedule=Schedule.model_validate({**schedule, **tail}),
    )
    work = folder / _folder(name)
    work.mkdir()
    arguments = (training.identity(), _model(options, kind).identity(), str(train), str(work), every)
    start = str(_checkpoints(folder / _folder(initial))[-1]) if initial else None
    process = multiprocessing.get_context("spawn").Process(target=_rank, args=(*arguments, start))
    process.start()
    process.join()
    assert process.exitcode == 0, f"{name} failed"
    rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    curve = []
    for checkpoint in _checkpoints(work):
        step = int(checkpoint.name.removeprefix("step-"))
        figures = _evaluate(checkpoint, kind, held_out, tokenizer, options)
        curve.append({"epoch": step * epochs / steps, "tokens": rows[step - 1]["tokens"], **figures})
        print(f"{name}: epoch {curve[-1]['epoch']:.2f}, {figures['bits_per_byte']:.4f} bits per byte", file=sys.stderr)
    return {
        "training": training.identity(),
        "parameters": sum(math.prod(shape) for shape in _shapes(options, kind)),
        "steps": steps,
        "seconds": sum(row["seconds"] for row in rows),
        "loss": [[row["step"], row["loss"]] for row in rows[:: max(1, len(rows) // 100)]],
        "curve": curve,
    }


def _folder(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _shapes(options: argparse.Namespace, kind: str) -> list[tuple[int, ...]]:
    from illada.model.weights import hf_tensor_names

    return list(hf_tensor_names(_model(options, kind)).values())


def _checkpoints(work: Path) -> list[Path]:
    from illada.train.checkpoint import FOLDER, published

    return [work / FOLDER / name for name in published(Folder.at(work))]


def _rank(
    training: Mapping[str, Any], model: Mapping[str, Any], train: str, work: str, every: int, initial: str | None
) -> None:
    import torch.distributed as dist

    from illada.train.job import Job
    from illada.train.process import prepare

    job = Job(
        training=Training.model_validate(training),
        model=ModelConfig.model_validate(model),
        placement=TrainPlacement(micro_batch=training["global_batch"], checkpoint_steps=every, keep_checkpoints=1000),
        shards=Folder.at(train),
        initial=Folder.at(initial) if initial else None,
        work=Folder.at(work),
        domain="train",
        epoch=0,
    )
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous", rank=0, world_size=1)
    prepare()
    from illada.train.loop import run

    claim(job.work, job.epoch)
    run(job)


def _evaluate(
    checkpoint: Path, kind: str, held_out: Path, tokenizer: Path, options: argparse.Namespace
) -> dict[str, float]:
    import torch

    from illada.evaluate.nll import evaluate_nll
    from illada.release.export import export_model
    from illada.train.export import export_weights

    torch.set_num_threads(1)
    model = _model(options, kind)
    objective, how = Objective.model_validate({"kind": kind}), Evaluate(windows=options.windows, draws=options.draws)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        export_model(export_weights(checkpoint, model), model, tokenizer, Path(folder))
        found = evaluate_nll(Path(folder), held_out, how, objective, options.window, NoProgress())
    bits = 1 / math.log(2)
    return {
        "bits_per_byte": found["bits_per_byte"],
        "standard_error": found["se_per_byte"] * bits,
        "windows": found["windows"],
        "cpu_seconds": time.process_time() - started,
    }


def _table(result: Mapping[str, Any]) -> str:
    """Held-out bits per byte of every evaluation."""
    unigram = result["data"]["unigram_bits_per_byte"]
    lines = [
        f"Held-out bits per byte. A unigram model has {unigram['text']:.3f} on the text and "
        f"{unigram['conversations']:.3f} on the conversations.",
        "",
        "| run | epoch | tokens seen | bits per byte | standard error |",
        "|---|---|---|---|---|",
    ]
    for name, run in result["runs"].items():
        for point in run["curve"]:
            lines.append(
                f"| {name} | {point['epoch']:.2f} | {point['tokens']:,} | {point['bits_per_byte']:.4f} | "
                f"{point['standard_error']:.4f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
