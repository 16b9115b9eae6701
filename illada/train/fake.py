"""Tensors without memory: a training step runs on them with all its shapes, and their bytes are counted.

torch's fake tensors have shapes, types and storages, but no data. Autograd's engine cannot have fake ones of a device
that is not there, so they are the CPU's, and `AsOnCuda` makes the model's code take the path it takes on CUDA.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AsOnCuda(TorchFunctionMode):
    """Answers what code asks of its device as CUDA would, and what it asks of values, which fake tensors lack.

    Every window of `window` tokens is one segment and all of its positions are masked: the most that a step can need.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self._window = window

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        if func is torch.Tensor.item:  # of a boundary between segments
            return self._window
        if func is torch.Tensor.nonzero:  # of a mask
            rows, columns = args[0].shape
            place = torch.arange(rows * columns)
            return place // columns, place % columns
        if func is torch.nn.functional.rms_norm:  # on a CPU several operations, which keep more than CUDA's one
            return _FusedNorm.apply(args[0], (kwargs or {})["weight"])
        return func(*args, **(kwargs or {}))


class _FusedNorm(torch.autograd.Function):
    """Keeps what `aten::_fused_rms_norm` keeps: its input, and float32 one over the root mean square of every row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class Saved(saved_tensors_hooks):
    """Counts the storages that autograd keeps for backward passes, each once; `peak` is the most bytes at a time.

    `own` are tensors that live anyway, such as parameters, and do not count.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        super().__init__(self._pack, lambda kept: kept.tensor)
        self.peak = 0
        self._bytes = 0
        self._holders: dict[int, int] = {}
        self._own = {_key(tensor) for tensor in own}

    def _pack(self, tensor: Tensor) -> _Kept:
        kept, key, size = _Kept(tensor), _key(tensor), tensor.untyped_storage().nbytes()
        if key not in self._own:
            self._bytes += 0 if key in self._holders else size
            self.peak = max(self.peak, self._bytes)
            self._holders[key] = self._holders.get(key, 0) + 1
            weakref.finalize(kept, self._drop, key, size)
        return kept

    def _drop(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._bytes -= size


class _Kept:
    """A saved tensor, for as long as autograd holds it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Live(TorchDispatchMode):
    """Counts the bytes of all storages made inside that are still alive; `peak` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.bytes -= size


def _key(tensor: Tensor) -> int:
    """What tells a storage from all others while it is alive."""
    key: int = tensor.untyped_storage()._cdata
    return key
