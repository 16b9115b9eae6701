"""Full weights to the folder `transformers` loads: safetensors, configuration, remote code, tokenizer.

The layout is the Hugging Face convention: one `model.safetensors`, or numbered shards with an index when the weights
are larger than `shard_bytes`; the two remote-code files verbatim; class and tensor names as iLLaDA's. With tied
embeddings the head is not stored twice. A model of causal attention is a Llama, and needs no code of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tokenizers import Tokenizer

from illada.artifacts import write_json
from illada.config import ModelConfig
from illada.data.tokenizer import BOS_ID, EOS_ID, IM_END_ID, MASK_ID, PAD_ID, SPECIAL_TOKENS
from illada.model.hf import configuration_illada, modeling_illada
from illada.sample.model import empty_model

SHARD_BYTES = 5 * 10**9
REMOTE_CODE = (Path(configuration_illada.__file__), Path(modeling_illada.__file__))
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_CODE = "modeling_illada.ILLaDAForCausalLM"
_ILLADA: dict[str, Any] = {
    "architectures": ["ILLaDAForCausalLM"],
    # AutoModel too gives the class with a head: the published samplers load with AutoModel and read `.logits`
    "auto_map": {
        "AutoConfig": "configuration_illada.ILLaDAConfig",
        "AutoModel": _CODE,
        "AutoModelForCausalLM": _CODE,
        "AutoModelForMaskedLM": _CODE,
    },
    "model_type": "illada",
}
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


class ExportError(ValueError):
    """Weights or a tokenizer that do not make the model they are said to be."""


def export_model(
    weights: Mapping[str, torch.Tensor],
    model: ModelConfig,
    tokenizer: Path,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the model and the files of the `tokenizer` folder into `folder`, which must be empty or absent.

    Args:
        weights: every tensor by its Hugging Face name, all of one floating type; no head when embeddings are tied.

    Raises:
        ExportError: missing, extra, misshapen, mistyped or non-finite tensors; a tokenizer that does not fit.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"{folder}: is not empty; export into a new folder")
    _check_tokenizer(tokenizer, model)
    dtype = _check_weights(weights, model)
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(weights, folder, shard_bytes)
    write_json(folder / "config.json", {**configuration(model), "dtype": str(dtype).removeprefix("torch.")})
    write_json(folder / "generation_config.json", _generation(model))
    for source in REMOTE_CODE if model.attention == "bidirectional" else ():
        shutil.copyfile(source, folder / source.name)
    for name in TOKENIZER_FILES + OPTIONAL_TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)


def configuration(model: ModelConfig) -> dict[str, Any]:
    """config.json of the architecture, without the weights' type."""
    return {
        **(_LLAMA if model.attention == "causal" else _ILLADA),
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": model.max_positions,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied_embeddings,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        **_mask(model),
    }


def _generation(model: ModelConfig) -> dict[str, Any]:
    return {"bos_token_id": BOS_ID, "eos_token_id": [EOS_ID, IM_END_ID], "pad_token_id": PAD_ID, **_mask(model)}


def _mask(model: ModelConfig) -> dict[str, int]:
    return {"mask_token_id": MASK_ID} if model.attention == "bidirectional" else {}


def _check_tokenizer(tokenizer: Path, model: ModelConfig) -> None:
    for name in TOKENIZER_FILES:
        if not (tokenizer / name).is_file():
            raise ExportError(f"{tokenizer}: has no {name}; give the folder of a tokenizer")
    read = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    if read.get_vocab_size() > model.vocab_size:
        raise ExportError(
            f"{tokenizer}: {read.get_vocab_size()} tokens do not fit in the model's {model.vocab_size} embedding rows"
        )
    mask = SPECIAL_TOKENS[MASK_ID]
    if read.token_to_id(mask) != MASK_ID:
        raise ExportError(f"{tokenizer}: {mask} has id {read.token_to_id(mask)}, expected {MASK_ID}")


def _check_weights(weights: Mapping[str, torch.Tensor], model: ModelConfig) -> torch.dtype:
    shapes = {name: tuple(parameter.shape) for name, parameter in empty_model(configuration(model)).named_parameters()}
    if missing := sorted(shapes.keys() - weights.keys()):
        raise ExportError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if extra := sorted(weights.keys() - shapes.keys()):
        raise ExportError(f"{len(extra)} tensors do not belong to this architecture, the first is {extra[0]}")
    dtype = next(iter(weights.values())).dtype
    for name, tensor in weights.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ExportError(f"{name}: has shape {tuple(tensor.shape)}, the architecture needs {shapes[name]}")
        if tensor.dtype != dtype or not dtype.is_floating_point:
            raise ExportError(f"{name}: has type {tensor.dtype}, expected one floating type for all ({dtype})")
        if not tensor.isfinite().all():
            raise ExportError(f"{name}: holds values that are not finite; the training diverged")
    return dtype


def _save_weights(weights: Mapping[str, torch.Tensor], folder: Path, shard_bytes: int) -> None:
    tensors = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=shard_bytes)
    for filename, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / filename, metadata={"format": "pt"})
    if plan.is_sharded:
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename},
        )
