"""One round of one training loop in this process; `training.py` starts it. Prints one JSON line.

`illada` is the product's own rank, `illada.train.loop.run`. `published` is LLaDA's pretraining step written from its
guidelines: hide tokens, logits of every position, cross-entropy of the hidden ones over p, divided by all tokens; with
AdamW, clipping, and autocast for bfloat16. `dllm` is dllm's MDLM trainer with its own settings but for what the others
share (batch, rate, dtype). The last two train the released model class, `illada.model.hf`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from training_setup import CASES, PEAK_RATE, Case

WARM_UP = 1


def main() -> None:
    """Run one round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--role", choices=ROLES, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--turn", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dllm", type=Path)
    options = parser.parse_args()
    print(json.dumps(ROLES[options.role](CASES[options.case], options)), flush=True)
    os._exit(0)  # Megatron's process groups outlive their end, and abort the interpreter's shutdown now and then


def _found(case: Case, ends: list[tuple[float, float]]) -> dict[str, Any]:
    """`ends` are those of all steps, by the clock and in this process's CPU time, which load does not lengthen."""
    (begun, cpu_begun), *_, (ended, cpu_ended) = ends[WARM_UP - 1 :]
    tokens = case.batch * case.window * (len(ends) - WARM_UP)
    return {
        "tokens_per_second": tokens / (ended - begun),
        "tokens_per_cpu_second": tokens / (cpu_ended - cpu_begun),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _gemm(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Operations a second of the fastest of several square products."""
    from illada.model.products import matmul

    torch.set_num_threads(options.threads)
    best = best_cpu = 0.0
    with torch.no_grad():
        for size in (1024, 2048, 3072):
            left, right = (torch.randn(size, size).to(getattr(torch, case.dtype)) for _ in range(2))
            for _ in range(6):
                begun, cpu_begun = _now()
                matmul(left, right)
                ended, cpu_ended = _now()
                best = max(best, 2 * size**3 / (ended - begun))
                best_cpu = max(best_cpu, 2 * size**3 / (cpu_ended - cpu_begun))
    return {"flops": best, "flops_per_cpu_second": best_cpu}


def _illada(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    import torch.distributed as dist

    from illada.artifacts import Folder, claim
    from illada.data.loader import Loader
    from illada.train.job import Job
    from illada.train.metrics import METRICS, read_rows
    from illada.train.process import prepare

    work = options.folder / f"work-{options.turn}"
    work.mkdir()
    job = Job(
        training=case.training(options.steps + WARM_UP),
        model=case.model,
        placement=case.placement(options.threads),
        shards=Folder.at(options.folder / "shards"),
        initial=None,
        work=Folder.at(work),
        domain="train",
        epoch=0,
    )
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous", rank=0, world_size=1)
    prepare(options.threads)
    from illada.train import loop, saver

    saver.Saver.begin = lambda *_: None  # the checkpoint at the end is not what is measured
    loading: list[float] = []
    batch = Loader.batch

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = batch(*arguments)
        loading.append(time.perf_counter() - started)
        return result

    Loader.batch = timed  # type: ignore[method-assign]
    claim(job.work, job.epoch)
    ends: list[tuple[float, float]] = []
    loop.run(job, on_row=lambda row: ends.append(_now()))
    rows = read_rows(job.work, METRICS)[WARM_UP:]
    return _found(case, ends) | {
        "masked": sum(row["masked_fraction"] for row in rows) / len(rows),
        "loader_share": sum(loading[WARM_UP:]) / sum(row["seconds"] for row in rows),
    }


def _twin(case: Case) -> torch.nn.Module:
    from illada.model.hf.configuration_illada import ILLaDAConfig
    from illada.model.hf.modeling_illada import ILLaDAForCausalLM
    from illada.model.weights import hf_tensor_names, initial_tensor
    from illada.release.export import configuration

    model = ILLaDAForCausalLM(ILLaDAConfig(**configuration(case.model)))
    weights = {name: initial_tensor(case.model, name, seed=0) for name in hf_tensor_names(case.model)}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    return model


def _published(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    from illada.artifacts import Folder
    from illada.data.loader import Loader
    from illada.data.shards import TokenShards
    from illada.data.tokenizer import MASK_ID
    from illada.data.windows import Windows

    torch.set_num_threads(options.threads)
    model = _twin(case)
    training = case.training(options.steps + WARM_UP)
    settings = training.optimizer
    betas = (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=betas, weight_decay=settings.weight_decay)
    windows = Windows(TokenShards.open(Folder.at(options.folder / "shards")), case.window)
    loader = Loader(windows, case.batch, training.seed, training.objective)
    ends = []
    for step in range(options.steps + WARM_UP):
        batch = loader.batch(step, 0, case.batch)
        tokens, hidden = torch.from_numpy(batch.tokens), torch.from_numpy(batch.mask)
        over_p = torch.from_numpy(batch.weight)
        noisy = torch.where(hidden, MASK_ID, tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "bfloat16"):
            logits = model(input_ids=noisy).logits
            losses = F.cross_entropy(logits[hidden], tokens[hidden], reduction="none") * over_p[hidden]
            loss = losses.sum() / tokens.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(_now())
    return _found(case, ends)


def _dllm(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Their trainer class as it is; only modules it needs are imported, for others ask for packages it does not use."""
    for name in ("dllm", "dllm.core", "dllm.utils"):
        module = types.ModuleType(name)
        module.__path__ = [str(options.dllm.joinpath(*name.split(".")))]
        sys.modules[name] = module
    import dllm.core.trainers.mdlm as mdlm
    import transformers

    from illada.data.shards import TokenShards
    from illada.data.tokenizer import MASK_ID
    from illada.data.windows import Windows

    mdlm.MDLMConfig.group_by_length = False  # transformers 5 has no such field, which their configuration reads
    torch.set_num_threads(options.threads)
    model = _twin(case)
    windows = Windows(TokenShards.open(options.folder / "shards"), case.window)
    rows = [
        {"input_ids": tokens, "labels": tokens}
        for tokens in (torch.from_numpy(windows[row].astype(np.int64)) for row in range(len(windows)))
    ]
    ends: list[tuple[float, float]] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(_now())

    trainer = mdlm.MDLMTrainer(
        args=mdlm.MDLMConfig(
            output_dir=str(options.folder / f"dllm-{options.turn}"),
            per_device_train_batch_size=case.batch,
            learning_rate=PEAK_RATE,
            max_steps=options.steps + WARM_UP,
            bf16=case.dtype == "bfloat16",
            use_cpu=True,
            report_to="none",
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,  # labels are no argument of the model
        ),
        model=model,
        train_dataset=rows,
        processing_class=types.SimpleNamespace(padding_side="right", mask_token_id=MASK_ID),
        data_collator=lambda items: {key: torch.stack([item[key] for item in items]) for key in items[0]},
        callbacks=[Clock()],
    )
    trainer.train()
    return _found(case, ends)


ROLES: dict[str, Callable[[Case, argparse.Namespace], dict[str, Any]]] = {
    "gemm": _gemm,
    "illada": _illada,
    "published": _published,
    "dllm": _dllm,
}


if __name__ == "__main__":
    main()
