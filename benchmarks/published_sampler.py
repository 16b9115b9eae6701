"""Run LLaDA's published sampling loop, unchanged, on one of our releases.

    python benchmarks/published_sampler.py --llada PATH_TO_CHECKOUT --release FOLDER

PATH_TO_CHECKOUT is a clone of github.com/ML-GSAI/LLaDA. Its `generate.py` is imported as it is and given a model loaded
the way it loads its own, through `AutoModel` and remote code; only the id of the mask token differs (5 here). Beside
its text stands what our sampler writes with the same number of steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from illada.artifacts import NoProgress
from illada.config import Generate
from illada.data.tokenizer import EOS_ID, IM_END_ID
from illada.sample.blocks import sample_prompts

PROMPTS = ("How do I install a package?", "What is a file system?")


def published_generate(llada: Path) -> Callable[..., torch.Tensor]:
    """The function `generate` of a checkout. Exits with a message when there is none."""
    path = llada / "generate.py"
    if not path.is_file():
        sys.exit(f"{path}: not found; clone github.com/ML-GSAI/LLaDA and give its folder with --llada")
    spec = importlib.util.spec_from_file_location("llada_generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generate: Callable[..., torch.Tensor] = module.generate
    return generate


def run(llada: Path, release: Path, prompts: Sequence[str], length: int, block: int) -> dict[str, Any]:
    """Texts of both samplers, one reveal a step, and how many mask or padding tokens the published loop wrote.

    With one block as long as the answer the two are the same algorithm, except that ours never reveals a mask or a
    padding token. With more blocks they differ: the published loop shows the model the masks of all later blocks, ours
    appends a block when it is needed.
    """
    generate = published_generate(llada)
    if not (release / "config.json").is_file():
        sys.exit(f"{release}: not a release; give its folder with --release")
    tokenizer = AutoTokenizer.from_pretrained(release, padding_side="left", trust_remote_code=True)
    model = AutoModel.from_pretrained(release, trust_remote_code=True).eval()
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False)
        for p in prompts
    ]
    inputs = tokenizer(chats, add_special_tokens=False, padding=True, return_tensors="pt")
    mask = model.config.mask_token_id
    tokens = generate(
        model,
        inputs["input_ids"],
        inputs["attention_mask"],
        steps=length,
        gen_length=length,
        block_length=block,
        temperature=0.0,
        remasking="low_confidence",
        mask_id=mask,
    )
    start = inputs["input_ids"].shape[1]
    assert torch.equal(tokens[:, :start], inputs["input_ids"]), "the prompt was changed"
    assert tokens.shape[1] == start + length
    texts = [tokenizer.decode(_until_stop(row), skip_special_tokens=True) for row in tokens[:, start:].tolist()]
    settings = Generate(max_new_tokens=length, block=block, steps_per_block=block, prompts=tuple(prompts))
    ours = [sample["text"] for sample in sample_prompts(release, settings, NoProgress())]
    reserved = torch.isin(tokens[:, start:], torch.tensor([mask, model.config.pad_token_id]))
    return {"prompts": list(prompts), "published": texts, "ours": ours, "reserved": int(reserved.sum())}


def _until_stop(ids: list[int]) -> list[int]:
    """The published loop always fills its length; what follows a stop token is not part of the answer."""
    return ids[: min((ids.index(stop) for stop in (EOS_ID, IM_END_ID) if stop in ids), default=len(ids))]


def main() -> None:
    """Parse the command line and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llada", type=Path, required=True, help="a clone of github.com/ML-GSAI/LLaDA")
    parser.add_argument("--release", type=Path, required=True, help="a release folder")
    parser.add_argument("--prompt", action="append", help=f"may be repeated; default: {', '.join(PROMPTS)}")
    parser.add_argument("--length", type=int, default=64, help="tokens to generate")
    parser.add_argument("--block", type=int, default=32, help="tokens of a block; divides the length")
    options = parser.parse_args()
    result = run(options.llada, options.release, options.prompt or PROMPTS, options.length, options.block)
    print(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
