"""An exported folder loads everywhere with the same logits, and wrong weights or tokenizers are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from illada.data.tokenizer import MASK_ID, TextTokenizer
from illada.model.hf.modeling_illada import ILLaDAForCausalLM
from illada.model.weights import hf_tensor_names, initial_tensor
from illada.release.export import REMOTE_CODE, ExportError, export_model
from illada.sample.model import ModelFolderError, load

if TYPE_CHECKING:
    from conftest import TinyModel

TOKENS = torch.randint(7, 300, (2, 21), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _logits(folder: Path) -> torch.Tensor:
    return load(folder)[0](TOKENS).logits


@torch.no_grad()
def test_weights_arrive_unchanged(tiny_model: TinyModel) -> None:
    model, tokenizer = load(tiny_model.folder)
    assert not model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tiny_model.weights[name])
    assert isinstance(tokenizer, TextTokenizer)


def test_tensor_names_are_the_training_side_s(tiny_model: TinyModel) -> None:
    for tied in (True, False):
        config = tiny_model.config.model_copy(update={"tied_embeddings": tied})
        model = load(tiny_model.folder)[0]
        model.config.tie_word_embeddings = tied
        names = {name: tuple(p.shape) for name, p in ILLaDAForCausalLM(model.config).named_parameters()}
        assert names == hf_tensor_names(config)


def test_auto_classes_load_it_in_a_fresh_process(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Without this project's package: the folder is copied, the remote code is all there is."""
    folder = shutil.copytree(tiny_model.folder, tmp_path / "elsewhere" / "tiny-model")
    program = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
torch.manual_seed(0)
tokens = torch.randint(7, 300, (2, 21), generator=torch.Generator().manual_seed(0))
logits = []
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM):
    model, info = auto.from_pretrained(sys.argv[1], trust_remote_code=True, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    logits.append(model.eval()(tokens).logits)
assert "illada" not in sys.modules
model.save_pretrained(sys.argv[2])
torch.save(torch.stack(logits), sys.argv[3])
"""
    again, saved = tmp_path / "again", tmp_path / "logits.pt"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, str(folder), str(again), str(saved)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = _logits(tiny_model.folder)
    assert expected.std() > 0.5
    for logits in torch.load(saved, weights_only=True):
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    for path in REMOTE_CODE:
        assert (again / path.name).read_text() == path.read_text()
    shutil.copy(tiny_model.folder / "tokenizer.json", again)
    torch.testing.assert_close(_logits(again), expected, rtol=0, atol=1e-6)


def test_configuration_and_tokenizer_agree_on_special_tokens(tiny_model: TinyModel) -> None:
    config = AutoConfig.from_pretrained(tiny_model.folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model.folder, trust_remote_code=True)
    generation = GenerationConfig.from_pretrained(tiny_model.folder)
    assert config.model_type == "illada"
    assert config.architectures == ["ILLaDAForCausalLM"]
    assert config.rope_parameters["rope_theta"] == tiny_model.config.rope_theta
    assert config.mask_token_id == generation.mask_token_id == MASK_ID
    assert tokenizer.convert_ids_to_tokens(config.mask_token_id) == "<[MASK]>"
    assert tokenizer.mask_token is None
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        config.pad_token_id,
        config.bos_token_id,
        config.eos_token_id,
    )
    assert generation.eos_token_id == [2, 6]
    messages = [{"role": "user", "content": "How do I install a package?"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == TextTokenizer.load(tiny_model.folder).chat_prompt(messages)


def test_shards_with_an_index_load_alike(tiny_model: TinyModel, tmp_path: Path) -> None:
    export_model(tiny_model.weights, tiny_model.config, tiny_model.tokenizer, tmp_path / "m", shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    assert index["weight_map"].keys() == tiny_model.weights.keys()
    assert torch.equal(_logits(tmp_path / "m"), _logits(tiny_model.folder))
    auto = ILLaDAForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert torch.equal(auto(TOKENS).logits, _logits(tiny_model.folder))


def test_the_same_model_gives_the_same_bytes(tiny_model: TinyModel, tmp_path: Path) -> None:
    shuffled = dict(reversed(list(tiny_model.weights.items())))
    export_model(shuffled, tiny_model.config, tiny_model.tokenizer, tmp_path / "m")
    for path in tiny_model.folder.iterdir():
        assert (tmp_path / "m" / path.name).read_bytes() == path.read_bytes()


@torch.no_grad()
def test_untied_and_bfloat16(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = tiny_model.config.model_copy(update={"tied_embeddings": False})
    weights = {name: initial_tensor(config, name, seed=0).bfloat16() for name in hf_tensor_names(config)}
    export_model(weights, config, tiny_model.tokenizer, tmp_path / "m")
    model, _ = load(tmp_path / "m")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])


def _broken(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    weights, name = dict(weights), "model.layers.1.mlp.up_proj.weight"
    if how == "missing":
        del weights[name]
    elif how == "belong":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    elif how == "shape":
        weights[name] = weights[name].T
    elif how == "type":
        weights[name] = weights[name].half()
    else:
        weights[name] = weights[name].clone()
        weights[name][3, 5] = float("nan")
    return weights


@pytest.mark.parametrize("how", ["missing", "belong", "shape", "type", "finite"])
def test_wrong_weights_are_refused(tiny_model: TinyModel, tmp_path: Path, how: str) -> None:
    name = "lm_head.weight" if how == "belong" else "up_proj"
    with pytest.raises(ExportError, match=how) as raised:
        export_model(_broken(tiny_model.weights, how), tiny_model.config, tiny_model.tokenizer, tmp_path / "m")
    assert name in str(raised.value)
    assert not (tmp_path / "m").exists()


def test_wrong_tokenizers_and_folders_are_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = tiny_model.config
    small = config.model_copy(update={"vocab_size": 290})
    with pytest.raises(ExportError, match="290 embedding rows"):
        export_model(tiny_model.weights, small, tiny_model.tokenizer, tmp_path / "m")
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        export_model(tiny_model.weights, config, tmp_path, tmp_path / "m")
    other = shutil.copytree(tiny_model.tokenizer, tmp_path / "tokenizer")
    text = (other / "tokenizer.json").read_text().replace("<[MASK]>", "<[mask]>")
    (other / "tokenizer.json").write_text(text)
    with pytest.raises(ExportError, match="expected 5"):
        export_model(tiny_model.weights, config, other, tmp_path / "m")
    with pytest.raises(ExportError, match="not empty"):
        export_model(tiny_model.weights, config, tiny_model.tokenizer, tmp_path)


def test_loading_what_is_not_a_release(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(ModelFolderError, match=r"config\.json: missing"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelFolderError, match="'gpt2'"):
        load(tmp_path)
    folder = shutil.copytree(tiny_model.folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"num_hidden_layers": 3}, "lacks 9"),
        ({"num_hidden_layers": 1}, "unknown 9"),
        ({"intermediate_size": 64}, "shape"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelFolderError, match=message):
            load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelFolderError, match="safetensors"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="safetensors"):
        load(folder)
