"""Matrix products in float32 on the CPU by oneDNN, as torch has bfloat16 ones; everything else as torch does it.

For float32 torch asks MKL, which takes AVX2 where the processor is not Intel's: less than half as fast as AVX-512.
Gradients are not followed: for the inside of autograd functions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """left [..., m, k] @ right [k, n]."""
    if _by_onednn(left, right):
        operands = _in_rows(left), dense(right.t())
        product: Tensor = torch.ops.mkldnn._linear_pointwise(*operands, None, "none", [], "")
        return product
    return torch.matmul(left, right)


def batched(left: Tensor, right: Tensor) -> Tensor:
    """left [b, m, k] @ right [b, k, n]."""
    if left.shape[0] and _by_onednn(left, right[0]):
        return torch.stack([matmul(one, other) for one, other in zip(left, right, strict=True)])
    return torch.bmm(left, right)


def _in_rows(x: Tensor) -> Tensor:
    """x, copied where it is neither contiguous nor a matrix whose rows or columns are."""
    if x.dim() == 2:
        (rows, columns), (down, right) = x.shape, x.stride()
        if (right == 1 and down >= columns) or (down == 1 and right >= rows):
            return x
    return x.contiguous()


def dense(weight: Tensor) -> Tensor:
    """weight, copied where rows or columns have gaps: for these oneDNN has only its reference, a thousandth as fast."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


def on_cpu(tensor: Tensor) -> bool:
    """Whether it has its elements in the memory of this machine, and does not only stand for one as in a dry run."""
    return tensor.device.type == "cpu" and type(tensor) in _PLAIN


def _by_onednn(left: Tensor, right: Tensor) -> bool:
    shapes = right.dim() == 2 and left.dim() >= 2 and left.numel() > 0 and right.numel() > 0
    return shapes and _AVAILABLE and left.dtype == right.dtype == torch.float32 and on_cpu(left) and on_cpu(right)


_PLAIN = (Tensor, torch.nn.Parameter)
_AVAILABLE = torch.backends.mkldnn.is_available()
