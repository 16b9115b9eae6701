"""Monte-Carlo bound on the held-out negative log-likelihood of a masked diffusion model.

The bound is E over t ~ U(0,1) of the sum of masked tokens' cross-entropies / t (LLaDA, arXiv 2502.09992, eq. 4). It
equals exactly the form in which the *number* of masked tokens l is uniform on 1..L, the masked set uniform among those
of that size, and the sum is weighted by L / l (eq. 6, which LLaDA evaluates with too), since the integral of
t^(l-1) (1-t)^(L-l) over t is 1 / (l C(L, l)). That form varies less: given l, the weight no longer depends on luck. The
training objective's eps, which keeps 1/p finite, has no part in it, and windows are not split.

Further reduction: of the draws for one window, draw k takes l from the k-th of equal strata of (0, 1). Each draw is no
longer uniform, their mean still is, so a window's mean stays unbiased; windows remain independent of one another, which
is what the standard errors, computed from the windows' means, rest on. Where documents were trained apart
(`isolate_documents`) the model sees each document of a window alone, and the bound is the sum of theirs: as it is
linear in what each adds, one t for all of them has the same expectation. The noise depends on (seed, window) alone:
models evaluated on the same shards see the same masks, so their difference is known better than either value.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from illada.artifacts import Progress
from illada.config import Evaluate, Objective
from illada.data.permutation import Permutation
from illada.data.snapshots import ShardSource, open_shards
from illada.data.windows import Windows
from illada.evaluate.exact import exact_nats
from illada.model.hf.modeling_illada import ILLaDAForCausalLM
from illada.sample.model import Model, load

_PASS_TOKENS = 8192  # tokens in one forward pass
_HEAD_ELEMENTS = 2**26  # logits held at once
_STREAM = int.from_bytes(hashlib.sha256(b"illada.evaluate.nll").digest()[:8], "little")


class EvaluationError(ValueError):
    """Held-out data or a model that the evaluation cannot work with; says what to change."""


def evaluate_nll(
    folder: Path, shards: Path | ShardSource, config: Evaluate, objective: Objective, window: int, progress: Progress
) -> dict[str, Any]:
    """The bound of the model in `folder` on `config.windows` windows of `window` tokens of `shards`, in nats.

    Of an autoregressive model it is the exact value, from one pass a window: `draws` in the result is 1.

    With fewer windows in the shards all are used: compare "windows" with "windows_asked" in the result. Bytes are those
    of the text the tokens stand for; document boundaries count none, though their nats are included.

    Raises:
        EvaluationError: fewer than two held-out windows, or shards and model that do not fit together.
    """
    model, tokenizer = load(folder)
    exact = model.config.model_type == "llama"
    if exact != (objective.kind == "autoregressive"):
        raise EvaluationError(f"{folder}: a {model.config.model_type} model was not trained by `{objective.kind}`")
    windows = Windows(open_shards(shards), window)
    _check(windows, model, shards)
    count = min(config.windows, len(windows))
    chosen = Permutation(len(windows), config.seed, 0, domain="evaluate").take(np.arange(count))
    tokens = np.stack([windows[int(index)] for index in chosen]).astype(np.int64)

    draws = 1 if exact else config.draws
    progress.start(count * draws, "passes")
    boundaries = _boundaries(windows, chosen) if objective.isolate_documents else None
    if exact:
        nats = exact_nats(model, tokens, lambda done: progress.update(done), boundaries)
    else:
        nats = window_nats(model, tokens, chosen.tolist(), config, lambda done: progress.update(done), boundaries)
    sizes = tokenizer.token_bytes[tokens].sum(axis=1).astype(np.float64)
    return {
        **_figures(nats, sizes, window),
        "windows": count,
        "windows_asked": config.windows,
        "windows_available": len(windows),
        "draws": draws,
        "tokens": count * window,
        "bytes": int(sizes.sum()),
    }


def _boundaries(windows: Windows, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the documents of each window begin, and its end, repeated: [n, m]."""
    cuts = [windows.cuts(window) for window in chosen.tolist()]
    boundaries = np.full((len(cuts), 2 + max(map(len, cuts))), windows.length)
    for row, found in zip(boundaries, cuts, strict=True):
        row[: len(found) + 1] = [0, *found]
    return boundaries


def _check(windows: Windows, model: Model, shards: Path | ShardSource) -> None:
    if len(windows) < 2:
        total = int(windows.shards.counts.sum())
        raise EvaluationError(
            f"{shards}: {total} held-out tokens give {len(windows)} windows of {windows.length} tokens, evaluation "
            f"needs at least 2; raise data.tokenize.held_out, add data, or shorten the window"
        )
    if windows.length > model.config.max_position_embeddings:
        raise EvaluationError(
            f"windows of {windows.length} tokens exceed the model's {model.config.max_position_embeddings} positions"
        )


@torch.inference_mode()
def window_nats(
    model: ILLaDAForCausalLM,
    tokens: NDArray[np.int64],
    window_ids: Sequence[int],
    config: Evaluate,
    on_pass: Callable[[int], None],
    boundaries: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Estimated nats of each window, [n], the mean over its draws, for tokens [n, L].

    `boundaries` [n, m] are those of segments, see `ILLaDAModel`.
    """
    n, length = tokens.shape
    masks, weights = (
        np.concatenate(part)
        for part in zip(*(draw_masks(config.seed, window, config.draws, length) for window in window_ids), strict=True)
    )
    rows = np.repeat(np.arange(n), config.draws)
    estimates = np.empty(len(rows))
    per_pass = max(1, _PASS_TOKENS // length)
    for start in range(0, len(rows), per_pass):
        part = slice(start, start + per_pass)
        clean = torch.from_numpy(tokens[rows[part]]).to(model.device)
        mask = torch.from_numpy(masks[part]).to(model.device)
        ends = None if boundaries is None else torch.from_numpy(boundaries[rows[part]]).to(model.device)
        estimates[part] = _masked_entropy(model, clean, mask, ends).cpu().numpy() * weights[part]
        on_pass(min(start + per_pass, len(rows)))
    return estimates.reshape(n, config.draws).mean(axis=1)


def draw_masks(seed: int, window: int, draws: int, length: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Masks [draws, length] of one window and the weights [draws] = length / masked tokens.

    Philox, counter-based, raw output only: the same numbers whatever the library's version.
    """
    raw = np.random.Philox(key=[seed, _STREAM], counter=[0, window, 0, 0]).random_raw(draws * (length + 1))
    uniform = ((raw >> np.uint64(11)) * 2.0**-53).reshape(draws, length + 1)
    stratified = (np.arange(draws) + uniform[:, 0]) / draws
    masked = np.minimum(1 + (length * stratified).astype(np.int64), length)
    rank = uniform[:, 1:].argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return rank < masked[:, None], length / masked


def _masked_entropy(
    model: ILLaDAForCausalLM, clean: torch.Tensor, mask: torch.Tensor, boundaries: torch.Tensor | None
) -> torch.Tensor:
    """Sum of the masked tokens' cross-entropies, float64 [b], for clean tokens and mask [b, L]."""
    corrupted = clean.masked_fill(mask, model.config.mask_token_id)
    hidden = model.model(corrupted, boundaries=boundaries).last_hidden_state[mask]
    target = clean[mask]
    chunk = max(1, _HEAD_ELEMENTS // model.config.vocab_size)
    entropy = torch.cat(
        [
            F.cross_entropy(_at_least_float32(model.lm_head(part)), wanted, reduction="none").double()
            for part, wanted in zip(hidden.split(chunk), target.split(chunk), strict=True)
        ]
    )
    return torch.zeros(mask.shape, dtype=torch.float64, device=mask.device).masked_scatter_(mask, entropy).sum(dim=1)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _figures(nats: NDArray[np.float64], sizes: NDArray[np.float64], length: int) -> dict[str, float]:
    """Means with their standard errors over windows; per byte as a ratio of sums, its error by the delta method."""
    n, total = len(nats), float(sizes.sum())
    if total == 0:
        raise EvaluationError("the held-out windows hold no text, only special tokens; check the held-out shards")
    per_byte = float(nats.sum()) / total
    return {
        "nll_per_token": float(nats.mean()) / length,
        "se_per_token": float(nats.std(ddof=1)) / math.sqrt(n) / length,
        "nll_per_byte": per_byte,
        "se_per_byte": float((nats - per_byte * sizes).std(ddof=1)) * math.sqrt(n) / total,
        "bits_per_byte": per_byte / math.log(2),
    }
