"""How checkpoint tensors lie on disk: one safetensors file a rank and one JSON index, behind Megatron's own interface.

Megatron-Core's `dist_checkpointing` describes each rank's tensors as boxes of global tensors (`ShardedTensor`) and
leaves storage to a strategy. Its default one forks writer processes and unpickles an index; here nothing is unpickled,
and only the slices that a rank asks for are read, so a checkpoint loads under any layout. `shards.json`:

    {"version": 1, "tensors": {key: {"shape": [...], "pieces": [{"file", "name", "offset": [...], "shape": [...]}]}}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.base import LoadShardedStrategy
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME, TorchCommonLoadStrategy
from safetensors import safe_open

from illada.artifacts import write_json
from illada.train.checkpoint import TENSORS
from illada.train.pieces import box

BACKEND = "illada_safetensors"
INDEX = "shards.json"
_VERSION = 1


def index_of(ranks: Sequence[Sequence[tuple[str, list[int], str, list[int], list[int]]]]) -> dict[str, Any]:
    """The index, from each rank's pieces: key, global shape, name, offset and shape.

    AssertionError when they are less or more than the tensors they are of.
    """
    index: dict[str, Any] = {}
    for rank, pieces in enumerate(ranks):
        for key, global_shape, name, offset, shape in pieces:
            located = {"file": tensor_file(rank), "name": name, "offset": offset, "shape": shape}
            index.setdefault(key, {"shape": global_shape, "pieces": []})["pieces"].append(located)
    for key, entry in index.items():
        count, there = math.prod(entry["shape"]), sum(math.prod(piece["shape"]) for piece in entry["pieces"])
        assert there == count, f"{key}: ranks own {there} of {count} elements"
    return {"version": _VERSION, "tensors": index}


def write_rest(folder: Path, index: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    """What lies beside the tensors: the index, the optimizer's plain values, Megatron's note on the format."""
    write_json(folder / INDEX, index)
    kept = {"optimizer": {**common, "param_state_sharding_type": "fully_reshardable"}}
    torch.save(kept, folder / COMMON_STATE_FNAME)
    save_config(CheckpointingConfig(BACKEND, _VERSION), str(folder))


class LoadShards(LoadShardedStrategy):
    """Reads what overlaps the boxes this rank asks for, converted to the type it asks for.

    `fetch` gives the local path of a file of tensors: only those that are needed are asked for.
    """

    def __init__(self, fetch: Callable[[str], Path]) -> None:
        self._fetch = fetch

    def load(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> dict[str, Any]:
        """The state dict with tensors in place of the `ShardedTensor`s. ValueError for what the checkpoint lacks."""
        folder = Path(checkpoint_dir)
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["tensors"]
        files: dict[str, Any] = {}

        def read(part: ShardedTensor) -> torch.Tensor:
            entry = index.get(part.key)
            if entry is None or entry["shape"] != list(part.global_shape):
                found = "lacks it" if entry is None else f"has shape {entry['shape']}"
                raise ValueError(f"{folder}: the model needs {part.key} of {list(part.global_shape)}, this {found}")
            shape = box(part)
            result = torch.empty(shape, dtype=part.dtype)
            filled = 0
            for piece in entry["pieces"]:
                here, there = _overlap(part.global_offset, shape, piece["offset"], piece["shape"])
                if here is None:
                    continue
                if piece["file"] not in files:
                    files[piece["file"]] = safe_open(self._fetch(piece["file"]), framework="pt")
                source = files[piece["file"]].get_slice(piece["name"])
                result[here] = source[there].to(part.dtype)
                filled += result[here].numel()
            if filled != result.numel():
                raise ValueError(f"{folder}: {part.key} is incomplete: {filled} of {result.numel()} elements found")
            return result.reshape(part.local_shape)

        loaded: dict[str, Any] = dict_list_map_outplace(read, sharded_state_dict)
        return loaded

    def load_tensors_metadata(self, checkpoint_dir: str | Path) -> dict[str, Any]:
        """Global shapes by key, as Megatron's tools expect them: sharded tensors without data."""
        index = json.loads((Path(checkpoint_dir) / INDEX).read_text(encoding="utf-8"))["tensors"]
        return {
            key: ShardedTensor.from_rank_offsets(key, torch.empty(entry["shape"], device="meta")).without_data()
            for key, entry in index.items()
        }

    def check_backend_compatibility(self, loaded_backend: str) -> None:
        """ValueError when the checkpoint was written by another backend."""
        if loaded_backend != BACKEND:
            raise ValueError(f"the checkpoint's tensors are stored as {loaded_backend!r}, this reads {BACKEND!r}")

    def check_version_compatibility(self, loaded_version: int) -> None:
        """ValueError when the checkpoint is of a newer version."""
        if loaded_version > _VERSION:
            raise ValueError(f"the checkpoint was written by a newer illada (tensor format {loaded_version}); upgrade")


class LoadCommon(TorchCommonLoadStrategy):
    """Megatron's `common.pt` (numbers of the optimizer), read without unpickling anything but plain values."""

    def load_common(self, checkpoint_dir: str | Path) -> dict[str, Any]:
        """The replicated part of the state."""
        state: dict[str, Any] = torch.load(
            Path(checkpoint_dir) / COMMON_STATE_FNAME, map_location="cpu", weights_only=True
        )
        return state


def tensor_file(rank: int) -> str:
    """Name of the file that a rank writes."""
    return f"rank-{rank:05d}{TENSORS}"


def _overlap(
    offset: Sequence[int], shape: Sequence[int], other_offset: Sequence[int], other_shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | tuple[None, None]:
    """Where two boxes of one global tensor meet, in the coordinates of each."""
    here, there = [], []
    for mine, size, other, other_size in zip(offset, shape, other_offset, other_shape, strict=True):
        first, end = max(mine, other), min(mine + size, other + other_size)
        if first >= end:
            return None, None
        here.append(slice(first - mine, end - mine))
        there.append(slice(first - other, end - other))
    return tuple(here), tuple(there)
