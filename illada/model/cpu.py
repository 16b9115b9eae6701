"""Makes Megatron-Core run on a machine without CUDA; does nothing where there is CUDA.

Megatron-Core 0.16 names the device in three ways: `torch.cuda.current_device()`, `device="cuda"` arguments and
`Tensor.cuda()`; its optimizers also read the device from `Tensor.type()`. All four are answered with the CPU here, by
one `TorchFunctionMode` (about a microsecond a torch call) and two replaced functions, so no Megatron source changes.
The mode also gives the products of its linear layers to `illada.model.products`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from illada.model.products import matmul

_CPU = torch.device("cpu")
_PRODUCTS = (torch.matmul, torch.Tensor.matmul)
_installed = threading.local()


def install_cpu_shim() -> None:
    """Answer Megatron's requests for CUDA with the CPU, from now on, in the calling thread. Idempotent.

    The mode belongs to the thread, as all torch modes do: call it in the thread that builds and trains the module.
    """
    if torch.cuda.is_available() or getattr(_installed, "done", False):
        return
    torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda device=None: None
    _OnCpu().__enter__()
    _installed.done = True


class _OnCpu(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.")  # what the optimizers compare with
        if func in _PRODUCTS and len(args) == 2 and not kwargs and not torch.is_grad_enabled():
            return matmul(*args)
        if func is torch.Tensor.to:
            args = tuple(_cpu(argument) for argument in args)
        if kwargs:
            return func(*args, **{**kwargs, "device": _cpu(kwargs["device"])} if "device" in kwargs else kwargs)
        return func(*args)


def _cpu(value: Any) -> Any:
    named = (isinstance(value, str) and value.startswith("cuda")) or (
        isinstance(value, torch.device) and value.type == "cuda"
    )
    return _CPU if named else value
