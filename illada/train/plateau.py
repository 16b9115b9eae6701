"""When the loss has stopped falling: a robust test of its slope, with a stated rate of false alarms.

iLLaDA (arXiv 2606.25331) held the learning rate until the loss plateaued and decayed it then, without saying how that
was seen. Here the loss counts as falling while it loses at least the fraction `fall` of itself in each window of steps.
A look at a window takes the means of its blocks of steps, adds the least fall that would do, and asks by Mann and
Kendall's test (Mann, Econometrica 13, 1945) whether the sum has an upward trend. It has none while the loss falls fast
enough, whatever the distribution of its noise: only ranks count, so single spikes do not move it.

Windows follow each other without overlap. Look k may raise a false alarm with probability (6 / pi^2) / k^2 times
`false_alarm`, which add up to at most `false_alarm` over a run of any length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from illada.config import Plateau

BLOCKS = 20
"""Means that a window is reduced to; a window has at least as many steps."""


def looks(plateau: Plateau, warmup_steps: int, steps: int) -> int:
    """How many windows are complete after `steps` steps when the last one ends with it; 0 when none does."""
    done = steps - warmup_steps
    return done // plateau.window if done > 0 and done % plateau.window == 0 else 0


def is_plateau(losses: Sequence[float], plateau: Plateau, look: int) -> bool:
    """Whether the losses of window number `look` (from 1) say that the loss no longer falls.

    Args:
        losses: of the window's steps in order, those of skipped steps left out; at least BLOCKS.
    """
    if len(losses) < BLOCKS:
        return False
    means = np.array([np.mean(block) for block in np.array_split(np.asarray(losses, dtype=np.float64), BLOCKS)])
    least_fall = plateau.fall * float(np.median(means)) * np.arange(BLOCKS) / BLOCKS
    return upward_trend(means + least_fall) <= plateau.false_alarm * 6 / (math.pi * look) ** 2


def upward_trend(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The probability of as much upward trend as `values` show, or more, were their order random (Mann-Kendall).

    The normal approximation with its correction for continuity; values are taken to differ from each other.
    """
    ordered = np.asarray(values)
    n = len(ordered)
    score = int(np.sign(ordered[None, :] - ordered[:, None])[np.triu_indices(n, 1)].sum())
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return 1 - NormalDist().cdf((score - math.copysign(min(1, abs(score)), score)) / deviation)
