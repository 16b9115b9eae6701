"""Tokens a second of pretraining, against the published LLaDA loss loop on the same model in plain `transformers`.

Both train the same architecture from the same weights on the same windows, in the same dtype, one process and one
thread each, alternated in one run, each round in a fresh process. The published loop (LLaDA's guidelines: forward
process, logits of every position, cross-entropy of the masked ones over p) is written here from its description; ours
is the product's own rank, `illada.train.loop.run`. The first steps of each round warm up and are not counted.

    python benchmarks/pretraining.py --layers 4 --hidden 384 --vocab 32768 --window 512 --batch 8
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WARM_UP = 2


def main() -> None:
    """Run the rounds and print one JSON object; also write it to --to."""
    arguments = _arguments()
    if arguments.role:
        _round(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_shards(Path(folder) / "shards", arguments)
        rates: dict[str, list[float]] = {"illada": [], "published": []}
        for turn in range(arguments.rounds):
            for role in rates:
                command = [
                    sys.executable,
                    __file__,
                    *sys.argv[1:],
                    "--role",
                    role,
                    "--folder",
                    folder,
                    "--turn",
                    str(turn),
                ]
                output = subprocess.run(command, capture_output=True, text=True, check=False)
                if output.returncode:
                    sys.exit(f"the {role} round failed:\n{output.stderr}")
                rates[role].append(float(output.stdout.splitlines()[-1]))
    from importlib.metadata import version

    result = {
        "tokens_per_second": {
            role: {"median": statistics.median(values), "rounds": values} for role, values in rates.items()
        },
        "ratio": statistics.median(rates["illada"]) / statistics.median(rates["published"]),
        "model": _model(arguments).identity(),
        "window": arguments.window,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "machine": f"{platform.machine()}, {platform.processor() or 'cpu'}, one thread a process",
        "versions": {name: version(name) for name in ("torch", "transformers", "megatron-core")},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.to:
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        arguments.to.write_text(text + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("layers", 4), ("hidden", 384), ("heads", 6), ("kv-heads", 6), ("ffn", 1024), ("vocab", 32768),
        ("window", 512), ("batch", 8), ("steps", 5), ("rounds", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--to", type=Path, help="also write the JSON here")
    parser.add_argument("--role", choices=("illada", "published"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _model(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from illada.config import ModelConfig

    return ModelConfig(
        layers=arguments.layers,
        hidden_size=arguments.hidden,
        heads=arguments.heads,
        kv_heads=arguments.kv_heads,
        ffn_size=arguments.ffn,
        vocab_size=arguments.vocab,
        max_positions=arguments.window,
    )


def _training(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from illada.config import Schedule, Training

    return Training(
        window=arguments.window,
        global_batch=arguments.batch,
        steps=arguments.steps + WARM_UP,
        dtype=arguments.dtype,
        schedule=Schedule(peak=1e-4, minimum=1e-5, warmup_steps=1, decay="cosine", decay_fraction=0.0),
    )


def _write_shards(folder: Path, arguments: argparse.Namespace) -> None:
    from illada.data.shards import ShardWriter, document_batch, token_dtype

    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = [generator.integers(7, arguments.vocab, arguments.window) for _ in range(arguments.batch * 16)]
    writer = ShardWriter(folder, vocab_size=arguments.vocab, shard_tokens=2**28)
    writer.add(
        document_batch(
            rows,
            ids=[str(number) for number in range(len(rows))],
            sources=["benchmark"] * len(rows),
            languages=["none"] * len(rows),
            sizes=[len(row) for row in rows],
            dtype=token_dtype(arguments.vocab),
        )
    )
    writer.close()


def _round(arguments: argparse.Namespace) -> None:
    seconds = _ours(arguments) if arguments.role == "illada" else _published(arguments)
    counted = seconds[WARM_UP:]
    print(arguments.batch * arguments.window / statistics.median(counted))


def _ours(arguments: argparse.Namespace) -> list[float]:
    import torch.distributed as dist

    from illada.artifacts import Folder, claim
    from illada.config import TrainPlacement
    from illada.train.job import Job
    from illada.train.metrics import METRICS, read_rows
    from illada.train.process import prepare

    work = arguments.folder / f"work-{arguments.turn}"
    work.mkdir()
    job = Job(
        training=_training(arguments),
        model=_model(arguments),
        placement=TrainPlacement(micro_batch=arguments.batch, checkpoint_steps=10**9),
        shards=Folder.at(arguments.folder / "shards"),
        initial=None,
        work=Folder.at(work),
        domain="train",
        epoch=0,
    )
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous", rank=0, world_size=1)
    prepare()
    from illada.train.loop import run

    claim(job.work, job.epoch)
    run(job)
    return [row["seconds"] for row in read_rows(job.work, METRICS)]


def _published(arguments: argparse.Namespace) -> list[float]:
    import torch
    import torch.nn.functional as F

    from illada.data.shards import TokenShards
    from illada.data.tokenizer import MASK_ID
    from illada.data.windows import Windows
    from illada.model.hf.configuration_illada import ILLaDAConfig
    from illada.model.hf.modeling_illada import ILLaDAForCausalLM
    from illada.model.weights import hf_tensor_names, initial_tensor

    torch.set_num_threads(1)
    config = _model(arguments)
    model = ILLaDAForCausalLM(
        ILLaDAConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.max_positions,
        )
    )
    weights = {name: initial_tensor(config, name, seed=0) for name in hf_tensor_names(config)}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    windows = Windows(TokenShards.open(arguments.folder / "shards"), arguments.window)
    generator = torch.Generator().manual_seed(0)
    taken = []
    for step in range(arguments.steps + WARM_UP):
        started = time.perf_counter()
        rows = [windows[(step * arguments.batch + row) % len(windows)] for row in range(arguments.batch)]
        tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
        level = torch.rand(len(tokens), 1, generator=generator)
        p_mask = ((1 - 1e-3) * level + 1e-3).expand_as(tokens)
        masked = torch.rand(tokens.shape, generator=generator) < p_mask
        noisy = torch.where(masked, MASK_ID, tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            logits = model(input_ids=noisy).logits
            token_loss = F.cross_entropy(logits[masked], tokens[masked], reduction="none") / p_mask[masked]
            loss = token_loss.sum() / tokens.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append(time.perf_counter() - started)
    return taken


if __name__ == "__main__":
    main()
