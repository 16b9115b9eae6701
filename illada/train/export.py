"""The weights of a training checkpoint, of any layout, as whole tensors under their released names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from illada.artifacts import Folder
from illada.config import ModelConfig
from illada.model.cpu import install_cpu_shim
from illada.train.checkpoint import Stored, require_model
from illada.train.process import import_megatron


def export_weights(checkpoint: Folder | Path, model: ModelConfig) -> dict[str, torch.Tensor]:
    """Hugging Face names to float32 tensors on the CPU, read in this one process.

    Works in a thread of its own, as torch's modes for Megatron belong to threads, and in a process group of one that is
    gone afterwards: callable again and again, in any process that has no process group.

    Raises:
        CheckpointError: the checkpoint is of another model, or unreadable.
        RuntimeError: this process is already part of a process group.
    """
    stored = Stored.at(Folder.at(checkpoint))
    require_model(stored, model)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_export, stored, model).result()


def _export(stored: Stored, model: ModelConfig) -> dict[str, torch.Tensor]:
    install_cpu_shim()
    import_megatron()
    from illada.model.megatron import build_module
    from illada.model.weights import hf_weights
    from illada.train.state import load_weights

    with _group_of_one():
        module = build_module(model, dtype=torch.float32)
        load_weights(stored, [module])
        return {name: tensor.cpu() for name, tensor in hf_weights(module, model).items()}


@contextmanager
def _group_of_one() -> Iterator[None]:
    from megatron.core import parallel_state

    if dist.is_initialized():
        raise RuntimeError("export needs a process that is not part of a torch process group")
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()
