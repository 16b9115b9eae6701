"""Load a released folder with this package's own class: no remote code is run, nothing is missing or made up.

The published `from_pretrained` initialises what a file lacks and only warns; here anything but an exact match is an
error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from illada.data.tokenizer import TextTokenizer
from illada.model.hf.configuration_illada import ILLaDAConfig
from illada.model.hf.modeling_illada import ILLaDAForCausalLM

Model: TypeAlias = ILLaDAForCausalLM | LlamaForCausalLM
"""A masked diffusion model, or an autoregressive one."""


class ModelFolderError(ValueError):
    """A folder that is not a model this package can load; says what is wrong with it."""


def empty_model(config: Mapping[str, Any]) -> Model:
    """The model of a `config.json`, whose weights take no memory yet. KeyError for an unknown `model_type`."""
    with torch.device("meta"):
        return _CLASSES[config["model_type"]](config)


def _llama(config: Mapping[str, Any]) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**config))
    with torch.device("cpu"):  # its frequencies are computed, and in no file
        model.model.rotary_emb = LlamaRotaryEmbedding(model.config)
    return model


_CLASSES: dict[str, Callable[[Mapping[str, Any]], Model]] = {
    "illada": lambda config: ILLaDAForCausalLM(ILLaDAConfig(**config)),
    "llama": _llama,
}


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[Model, TextTokenizer]:
    """The model in evaluation mode, in the type it was saved in, and its tokenizer.

    Raises:
        ModelFolderError: a missing or unreadable file, another model type, missing, extra or misshapen tensors.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"{folder}: no such folder; give the folder of a release")
    raw = _read_json(folder / "config.json")
    if raw.get("model_type") not in _CLASSES:
        raise ModelFolderError(f"{folder}: holds a {raw.get('model_type')!r} model, expected 'illada' or 'llama'")
    model = empty_model(raw)
    weights = _read_weights(folder)
    _check(weights, model, folder)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    return model.to(device).eval(), TextTokenizer.load(folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(f"{path}: missing; {path.parent} is not the folder of a release") from None
    except ValueError as error:
        raise ModelFolderError(f"{path}: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path}: must hold a mapping")
    return value


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        try:
            weights.update(load_file(folder / name))
        except (OSError, SafetensorError) as error:
            raise ModelFolderError(f"{folder / name}: cannot be read as safetensors ({error})") from error
    return weights


def _check(weights: dict[str, torch.Tensor], model: Model, folder: Path) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for what, names in (("lacks", shapes.keys() - weights.keys()), ("has unknown", weights.keys() - shapes.keys())):
        if names:
            raise ModelFolderError(f"{folder}: {what} {len(names)} tensors, the first is {min(names)}")
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ModelFolderError(f"{folder}: {name} has shape {tuple(weights[name].shape)}, config.json says {shape}")
