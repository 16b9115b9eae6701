"""Which parts of the global weights and optimizer state a rank holds, as boxes of global tensors.

Weights are Megatron's own (`sharded_state_dict`). Of the optimizer's state its `fully_reshardable` form has the right
names and shapes, so that what one layout has saved loads under any other; but it gathers all of it on every
data-parallel rank first. Here each rank gives what it owns: a range of a flattened parameter, which is cut into the few
boxes it consists of, so that nothing is sent and all ranks write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, is_main_replica
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

STATES = ("param", "exp_avg", "exp_avg_sq")
"""Of the optimizer, for every parameter: the weight as it is updated, and two moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A box of the global tensor `key`: where it begins, and its elements, in storage that training goes on with."""

    key: str
    global_shape: list[int]
    offset: list[int]
    tensor: Tensor

    @property
    def name(self) -> str:
        """Within the files of a checkpoint."""
        return f"{self.key}@{','.join(map(str, self.offset))}"


def weight_pieces(model: dict[str, Any]) -> Iterator[Piece]:
    """Weights that this rank is the one to write. `model` is from `illada.train.state.model_state`."""
    for entry in nested_values(model):
        for part in _parts(entry):
            if is_main_replica(part.replica_id):
                tensor = part.data.detach().view(box(part))
                yield Piece(
                    key=part.key, global_shape=list(part.global_shape), offset=list(part.global_offset), tensor=tensor
                )


def optimizer_pieces(model: dict[str, Any], optimizer: DistributedOptimizer) -> Iterator[Piece]:
    """The optimizer's state on this rank, which has made at least one update."""
    entries = {entry.data: entry for entry in nested_values(model)}
    maps = (buckets for buffer in optimizer.gbuf_ranges for buckets in buffer.values())
    for parameter, ranges in (item for buckets in maps for bucket in buckets for item in bucket["param_map"].items()):
        owned = ranges["param"]  # of the flattened parameter
        states = optimizer._get_main_param_and_optimizer_states(parameter)
        for part in _parts(entries[parameter]):
            pipeline_and_tensor = part.replica_id[:2]  # data-parallel replicas own different ranges
            if not is_main_replica(pipeline_and_tensor):
                continue
            start = part.data.storage_offset() - parameter.storage_offset()
            first, end = max(owned.start, start), min(owned.end, start + part.data.numel())
            done = first - owned.start
            for corner, shape in boxes(box(part), first - start, end - start):
                offset = [base + own for base, own in zip(part.global_offset, corner, strict=True)]
                count = math.prod(shape)
                for state in STATES:
                    yield Piece(
                        key=f"optimizer.state.{state}.{part.key}",
                        global_shape=list(part.global_shape),
                        offset=offset,
                        tensor=states[state].detach().view(-1)[done : done + count].view(shape),
                    )
                done += count


def box(part: ShardedTensor) -> list[int]:
    """Shape of a part among the axes of its global tensor."""
    return [1] * part.prepend_axis_num + list(part.local_shape)


def boxes(shape: Sequence[int], first: int, end: int) -> Iterator[tuple[list[int], list[int]]]:
    """Corner and shape of the boxes that elements `first` to `end` of a flattened tensor consist of, in their order.

    At most two for each axis but the last, and one.
    """
    if first >= end:
        return
    if not shape:
        yield [], []
        return
    row = math.prod(shape[1:])
    whole, last = -(-first // row), end // row
    if whole * row > first:
        start = (whole - 1) * row
        yield from _in_row(shape, whole - 1, first - start, min(end - start, row))
    if whole < last:
        yield [whole] + [0] * (len(shape) - 1), [last - whole, *shape[1:]]
    if last >= whole:
        yield from _in_row(shape, last, 0, end - last * row)


def _in_row(shape: Sequence[int], row: int, first: int, end: int) -> Iterator[tuple[list[int], list[int]]]:
    for corner, size in boxes(shape[1:], first, end):
        yield [row, *corner], [1, *size]


def _parts(entry: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """What a parameter consists of: itself, or, where two projections are one matrix, each of them."""
    return list(nested_values(entry.build())) if isinstance(entry, ShardedTensorFactory) else [entry]
