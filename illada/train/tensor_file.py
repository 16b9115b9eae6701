"""A rank's tensors as one safetensors file, copied at once and written later by another thread.

Names, types and shapes are the same at every checkpoint, so the header and the place of every tensor are computed once.
The format (8 bytes of length, JSON, data without gaps) is safetensors' own; its library would copy all tensors once
more, and hold Python's lock while it writes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}
_ALIGNMENT = 8
_PART_BYTES = 2**24


class TensorFile:
    """A file of `tensors`, which keep their storage and change between copies; holds memory for one copy of them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """AssertionError for a type that has no place in a checkpoint."""
        unknown = {tensor.dtype for tensor in tensors.values()} - _TYPES.keys()
        assert not unknown, f"not a type of weights or optimizer state: {unknown}"
        # The widest types first, so that every tensor is aligned; the order is otherwise the caller's.
        order = sorted(tensors.items(), key=lambda item: -item[1].element_size())
        header: dict[str, dict[str, Any]] = {}
        end = 0
        for name, tensor in order:
            begin, end = end, end + tensor.nbytes
            header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._header = len(text).to_bytes(8, "little") + text
        self._copy = torch.empty(end, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self._pairs = []
        for name, tensor in order:
            begin, end = header[name]["data_offsets"]
            self._pairs.append((self._copy[begin:end].view(tensor.dtype).view(tensor.shape), tensor.detach()))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._header) + len(self._copy)

    def copy(self) -> None:
        """Copy all tensors to host memory, as they are now; not while `write` runs."""
        for target, source in self._pairs:
            target.copy_(source, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def write(self, path: Path) -> str:
        """Write the copies; returns the file's sha256."""
        digest = hashlib.sha256(self._header)
        data = self._copy.numpy().data
        with path.open("wb", buffering=0) as file:
            file.write(self._header)
            for part in range(math.ceil(len(data) / _PART_BYTES)):
                piece = data[part * _PART_BYTES : (part + 1) * _PART_BYTES]
                digest.update(piece)
                while piece:
                    piece = piece[file.write(piece) :]
        return digest.hexdigest()
