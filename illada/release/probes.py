"""Probes: a few inputs with the logits they must give, so that a release can be checked offline by anyone.

The reference is computed in float64 and stored as float32, which makes its bytes independent of the number of threads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from illada.data.tokenizer import MASK_ID, SPECIAL_TOKENS
from illada.release.checksums import ReleaseError
from illada.sample.model import Model

PROBES = "probes.safetensors"
TOLERANCE = 1e-4
"""Largest difference in float32, for logits up to 1 in size; in proportion to the largest logit above that."""
_SHAPE = (2, 16)


def write_probes(model: Model, folder: Path) -> None:
    """Write arbitrary tokens [2, 16], every third one masked, and their logits [2, 16, V]; turns `model` to float64."""
    raw = np.random.Philox(key=[0, 0]).random_raw(_SHAPE[0] * _SHAPE[1])
    first = len(SPECIAL_TOKENS)
    ids = first + (raw % np.uint64(model.config.vocab_size - first)).astype(np.int64).reshape(_SHAPE)
    ids[:, 1::3] = MASK_ID
    tokens = torch.from_numpy(ids)[:, : model.config.max_position_embeddings].contiguous()
    with torch.inference_mode():
        logits = model.double()(tokens).logits.float()
    save_file({"logits": logits, "tokens": tokens}, folder / PROBES)


def check_probes(model: Model, folder: Path) -> float:
    """The largest difference from the stored logits, computed in float32; turns `model` to float32.

    Raises:
        ReleaseError: unreadable probes, or a difference above the tolerance.
    """
    path = folder / PROBES
    try:
        probes = load_file(path)
        tokens, expected = probes["tokens"], probes["logits"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ReleaseError(f"{path}: holds no readable probes ({error})") from None
    with torch.inference_mode():
        logits = model.float()(tokens).logits
    if logits.shape != expected.shape:
        raise ReleaseError(f"{path}: logits of shape {tuple(expected.shape)}, the model gives {tuple(logits.shape)}")
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ReleaseError(f"{path}: the model's logits differ by up to {difference:.2e}; the weights are not its own")
    return difference
