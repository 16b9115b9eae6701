"""The noise of a window: a pure function of (seed, epoch, window id), so that any layout trains on the same batches.

Masked diffusion (LLaDA, arXiv 2502.09992, eq. 3): a sequence draws t ~ U(0,1) and every token becomes [MASK] with
probability p = (1 - eps) t + eps; the loss weighs masked tokens by 1 / p. iLLaDA's random length (arXiv 2606.25331):
with probability `random_split` a window is cut at a random position into two segments, each a sequence of its own; it
may be cut where its documents begin, too.

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), counter-based:
the key is (seed, domain) and the counter (block, window id, epoch, 0), so no two windows ever share a number. Only its
raw 64-bit output is used, which numpy guarantees, never the floating-point streams, which it does not.

Where levels are stratified (`stratified_levels`) t is a function of the step and the row's place in its global batch
instead; the rest stays the window's.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illada.data.permutation import Permutation

_DECISIONS = 4  # numbers drawn before the positions': split or not, where, t of both segments if there are but two


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowNoise:
    """Noise of one window (shapes below), or of a batch of them (each with a leading batch axis).

    Attributes:
        boundaries: int32 [segments + 1]: 0, then ends of segments, the last one the length, repeated where there are
            fewer segments than in another row. Without documents [3], and without a split [0, length, length].
        mask: bool [length]: the positions that become [MASK].
        weight: float32 [length]: 1 / p of the position's segment where masked, 0 elsewhere.
        level: float32 [length]: t of the position's segment.
    """

    boundaries: NDArray[np.int32]
    mask: NDArray[np.bool_]
    weight: NDArray[np.float32]
    level: NDArray[np.float32]


def window_noise(
    seed: int, epoch: int, window_id: int, length: int, eps: float, random_split: float, *, domain: str = "train"
) -> WindowNoise:
    """Noise of one window of `length` tokens. `domain` separates streams ("train", "evaluate", ...) of one seed."""
    noise = batch_noise(seed, epoch, [window_id], length, eps, random_split, domain=domain)
    return WindowNoise(boundaries=noise.boundaries[0], mask=noise.mask[0], weight=noise.weight[0], level=noise.level[0])


def batch_noise(
    seed: int,
    epoch: int,
    window_ids: Sequence[int] | NDArray[np.int64],
    length: int,
    eps: float,
    random_split: float,
    *,
    domain: str = "train",
    levels: NDArray[np.float64] | None = None,
    cuts: Sequence[NDArray[np.int64]] | None = None,
    segments: int = 2,
) -> WindowNoise:
    """Noise of several windows at once, arrays with a leading batch axis; row i depends on window_ids[i] alone.

    With `levels`, [segments, len(window_ids)] in [0, 1), these are t of the first, second, ... segment of each row.
    With `cuts` each row is cut at its ascending positions, all within (0, length), as well as at random; `segments` is
    the most that this makes of any row.

    Raises:
        ValueError: a seed outside [0, 2**64), a negative epoch or window id, a length below 1.
    """
    if length < 1:
        raise ValueError(f"length {length} must be positive")
    uniform = uniforms(seed, epoch, window_ids, _DECISIONS + length, domain=domain)
    if levels is None and cuts is None:
        levels = uniform[:, 2:_DECISIONS].T
    elif levels is None:
        levels = uniforms(seed, epoch, window_ids, segments, domain=f"{domain}/segments").T
    boundaries = _boundaries(uniform, length, random_split, cuts, segments)
    level = np.empty((len(boundaries), length))
    for row, ends in enumerate(boundaries):
        level[row] = np.repeat(levels[:, row], np.diff(ends))
    probability = (1 - eps) * level + eps
    mask = uniform[:, _DECISIONS:] < probability
    weight = np.where(mask, 1 / probability, 0)
    return WindowNoise(
        boundaries=boundaries, mask=mask, weight=weight.astype(np.float32), level=level.astype(np.float32)
    )


def splits(
    seed: int,
    epoch: int,
    window_ids: Sequence[int] | NDArray[np.int64],
    length: int,
    random_split: float,
    *,
    domain: str = "train",
    cuts: Sequence[NDArray[np.int64]] | None = None,
    segments: int = 2,
) -> NDArray[np.int32]:
    """Where `batch_noise` cuts the same windows: its boundaries, int32 [len(window_ids), segments + 1]."""
    uniform = uniforms(seed, epoch, window_ids, _DECISIONS, domain=domain)
    return _boundaries(uniform, length, random_split, cuts, segments)


def without_noise(boundaries: NDArray[np.int32]) -> WindowNoise:
    """Windows of these boundaries, int32 [b, m], every position of which is predicted with weight 1; there is no t."""
    shape = (len(boundaries), int(boundaries[0, -1]))
    ones, zeros = np.ones(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    return WindowNoise(boundaries=boundaries, mask=np.ones(shape, dtype=np.bool_), weight=ones, level=zeros)


def _boundaries(
    uniform: NDArray[np.float64],
    length: int,
    random_split: float,
    cuts: Sequence[NDArray[np.int64]] | None = None,
    segments: int = 2,
) -> NDArray[np.int32]:
    split, place = uniform[:, :2].T
    cut = np.where((split < random_split) & (length > 1), 1 + (place * (length - 1)).astype(np.int64), length)
    boundaries = np.full((len(cut), segments + 1), length, dtype=np.int32)
    for row, ends in enumerate(boundaries):
        found = np.unique([0, *(() if cuts is None else cuts[row]), cut[row]])
        ends[: len(found)] = found
    return boundaries


def uniforms(
    seed: int, epoch: int, window_ids: Sequence[int] | NDArray[np.int64], count: int, *, domain: str
) -> NDArray[np.float64]:
    """`count` numbers of [0, 1) for each window, [len(window_ids), count]; of a lower count these are the first ones.

    Raises:
        ValueError: a seed outside [0, 2**64), a negative epoch or window id.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed}: must be in [0, 2**64)")
    if epoch < 0 or any(window_id < 0 for window_id in window_ids):
        raise ValueError(f"epoch {epoch} and window ids must not be negative")
    key = np.array([seed, _stream(domain)], dtype=np.uint64)
    uniform = np.empty((len(window_ids), count))
    for row, window_id in zip(uniform, window_ids, strict=True):
        philox = np.random.Philox(key=key, counter=np.array([0, window_id, epoch, 0], dtype=np.uint64))
        np.multiply(philox.random_raw(len(row)) >> np.uint64(11), 2.0**-53, out=row)  # 53 bits: [0, 1)
    return uniform


def stratified_levels(
    seed: int, step: int, first: int, count: int, global_batch: int, segments: int = 2, *, domain: str = "train"
) -> NDArray[np.float64]:
    """Levels t of rows first..first+count of a global step, [segments, count]: of first, second, ... segments.

    t_i = (u + pi(i) / B) mod 1 over the B rows of the step, u ~ U(0, 1) and pi a permutation, both of (seed, step) and
    different for every place of a segment in its row: every t_i is uniform, and each interval [k / B, (k + 1) / B) has
    exactly one of them. It is the low-discrepancy sampler of variational diffusion models (Kingma et al., arXiv
    2107.00630), taken by MDLM (arXiv 2406.07524) to masked diffusion, over the whole step instead of a device's part.
    """
    rows = np.arange(first, first + count)
    offsets = uniforms(seed, 0, [step], segments, domain=f"{domain}/levels")[0]
    places = [
        Permutation(global_batch, seed, step, domain=f"{domain}/levels/{segment}").take(rows)
        for segment in range(segments)
    ]
    levels: NDArray[np.float64] = (offsets[:, None] + np.stack(places) / global_batch) % 1.0
    return levels


@functools.lru_cache(maxsize=64)
def _stream(domain: str) -> int:
    """64 bits that stand for a domain in the generator's key."""
    return int.from_bytes(hashlib.sha256(b"illada.noise\0" + domain.encode()).digest()[:8], "little")
