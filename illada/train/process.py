"""What a process must do before Megatron-Core is imported and used in it: device, threads, determinism, quiet.

On a CPU every rank computes with a set number of threads, so that sums have one order and a resumed run repeats the
bits of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from illada.model.cpu import install_cpu_shim

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def prepare(threads: int = 1) -> None:
    """Prepare the calling thread (torch's modes and thread counts belong to threads) to build and train modules.

    `threads` are those it computes with where there is no CUDA.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    if not torch.cuda.is_available():
        torch.set_num_threads(threads)
        keep_freed_memory()
    install_cpu_shim()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    import_megatron()


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that are freed, for the next tensor of that size.

    By default it gives them back, and the kernel clears every page again: on a processor that takes longer than most
    of what is done with a tensor once. Nothing where the library is not glibc.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None and platform.libc_ver()[0] == "glibc":
        change(_M_MMAP_MAX, 0)
        change(_M_TRIM_THRESHOLD, 2**31 - 1)


def import_megatron() -> None:
    """Import Megatron-Core without what it would only say or slow down on a CPU.

    It decorates small functions with `torch.compile` while it is imported, which loads the whole compiler (a third of
    the import time) and later runs a C++ compiler: where there is no CUDA they stay as written.
    """
    with warnings.catch_warnings(), _uncompiled() if not torch.cuda.is_available() else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        import megatron.core.distributed
        import megatron.core.optimizer
        import megatron.core.pipeline_parallel  # noqa: F401


def device() -> torch.device:
    """Where this rank computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    def leave(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        return function if function is not None else lambda decorated: decorated

    compiler, torch.compile = torch.compile, leave  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler
