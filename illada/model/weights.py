"""Weights between the names and layout of the released (Hugging Face) model and Megatron's shards, under any layout.

`hf_views` is the one description of the correspondence; loading, exporting and the tests' gradient gathering all go
through it, so they cannot disagree. Megatron fuses query, key and value (interleaved per key/value head), fuses gate
and up projections (gate first, per tensor-parallel rank), slices the vocabulary, and numbers layers per stage.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from illada.config import ModelConfig

if TYPE_CHECKING:
    from illada.model.megatron import DiffusionGPT

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def hf_tensor_names(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the released model, in the order of the model."""
    hidden, kv = config.hidden_size, config.kv_heads * config.head_dim
    names: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        names |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (config.ffn_size, hidden),
            f"{prefix}.mlp.up_proj.weight": (config.ffn_size, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, config.ffn_size),
        }
    names[FINAL_NORM] = (hidden,)
    if not config.tied_embeddings:
        names[HEAD] = (config.vocab_size, hidden)
    return names


def initial_tensor(config: ModelConfig, name: str, seed: int) -> Tensor:
    """The initial value, float32, of one tensor: a pure function of its name and the seed, whatever the layout.

    Matrices are normal with `init_std`; those that write into the residual stream (o_proj, down_proj) are scaled by
    1 / sqrt(2 layers) as in GPT-2; norms are ones.

    Raises:
        ValueError: the model has no tensor of that name.
    """
    shape = _shape(config, name)
    if len(shape) == 1:
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    residual = name.endswith((".o_proj.weight", ".down_proj.weight"))
    std = config.init_std / math.sqrt(2 * config.layers) if residual else config.init_std
    return torch.empty(shape).normal_(0.0, std, generator=generator)


@torch.no_grad()
def load_hf_weights(module: DiffusionGPT, config: ModelConfig, get: Callable[[str], Tensor]) -> None:
    """Fill this rank's shards from full tensors, asking `get` for one name of `hf_tensor_names` at a time.

    Only names of this pipeline stage are asked for; a tied embedding is asked for by the first and by the last stage.

    Raises:
        ValueError: a tensor of the wrong shape.
    """
    size, rank = module.tp_group.size(), module.tp_group.rank()
    for name, view, dim in hf_views(module, config):
        full = get(name)
        if tuple(full.shape) != _shape(config, name):
            raise ValueError(f"{name}: has shape {tuple(full.shape)}, the model needs {_shape(config, name)}")
        part = full if dim is None else full.chunk(size, dim)[rank]
        view.copy_(part.reshape(view.shape))


@torch.no_grad()
def hf_weights(module: DiffusionGPT, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of a whole (one-rank) module under their released names, copied; inverse of `load_hf_weights`."""
    assert module.tp_group.size() == module.pp_group.size() == 1, "gather the layout into one rank first"
    shapes = hf_tensor_names(config)
    found = {name: view.reshape(shapes[name]).clone() for name, view, _ in hf_views(module, config)}
    return {name: found[name] for name in shapes}


def hf_views(
    module: DiffusionGPT, config: ModelConfig, read: Callable[[torch.nn.Parameter], Tensor] = lambda p: p.data
) -> Iterator[tuple[str, Tensor, int | None]]:
    """Every released tensor this rank holds a part of: (name, view of that part, dimension cut over tensor ranks).

    A view has the elements of the released tensor's part in its order, possibly with more dimensions (query, key and
    value are [kv heads, heads in the group, head width, hidden]). `read` picks what to view of a parameter, for example
    its gradient.
    """
    shared_on_last = module.post_process and not module.pre_process and config.tied_embeddings
    if module.pre_process:
        yield EMBEDDING, read(module.embedding.word_embeddings.weight), 0
    for layer in module.decoder.layers:
        prefix = f"model.layers.{layer.layer_number - 1}"
        attention, mlp = layer.self_attention, layer.mlp
        group = config.heads // config.kv_heads
        qkv = read(attention.linear_qkv.weight).view(-1, group + 2, config.head_dim, config.hidden_size)
        gate, up = read(mlp.linear_fc1.weight).chunk(2)
        yield f"{prefix}.input_layernorm.weight", read(layer.input_layernorm.weight), None
        yield f"{prefix}.self_attn.q_proj.weight", qkv[:, :group], 0
        yield f"{prefix}.self_attn.k_proj.weight", qkv[:, group : group + 1], 0
        yield f"{prefix}.self_attn.v_proj.weight", qkv[:, group + 1 :], 0
        yield f"{prefix}.self_attn.o_proj.weight", read(attention.linear_proj.weight), 1
        yield f"{prefix}.post_attention_layernorm.weight", read(layer.pre_mlp_layernorm.weight), None
        yield f"{prefix}.mlp.gate_proj.weight", gate, 0
        yield f"{prefix}.mlp.up_proj.weight", up, 0
        yield f"{prefix}.mlp.down_proj.weight", read(mlp.linear_fc2.weight), 1
    if module.post_process:
        yield FINAL_NORM, read(module.decoder.final_layernorm.weight), None
    if shared_on_last:
        yield EMBEDDING, read(module.output_layer.weight), 0
    elif module.post_process and not config.tied_embeddings:
        yield HEAD, read(module.output_layer.weight), 0


def _shape(config: ModelConfig, name: str) -> tuple[int, ...]:
    shapes = hf_tensor_names(config)
    if name not in shapes:
        raise ValueError(f"the model has no tensor {name!r}")
    return shapes[name]
