"""The learning rate as a pure function of the step: linear warmup, constant, then cosine or linear decay.

The shape of iLLaDA's schedule (arXiv 2606.25331): warmup to `peak`, a constant phase, decay to `minimum` at the end;
and of LLaDA's (arXiv 2502.09992), whose constant phase has two levels. Being pure, it needs no state in a checkpoint: a
resumed run reads the same values.
"""

from __future__ import annotations

import math

from illada.config import Schedule


def learning_rate(schedule: Schedule, step: int, total_steps: int, decay_steps: int) -> float:
    """Learning rate of the update made after `step` completed ones.

    `total_steps` updates are made in all, the last `decay_steps` of which decay: see `illada.train.decay.Horizon`.

    Updates count from 1: update `warmup_steps` is the first at `peak` and the last update is at `minimum` exactly.
    A drop counts from the update after its share of all steps.
    Where a short run makes warmup and decay overlap, the lower of the two counts.

    Raises:
        ValueError: `step` is not in [0, total_steps).
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside of a run of {total_steps} steps")
    update = step + 1
    level = next((d.rate for d in reversed(schedule.drops) if step >= round(d.after * total_steps)), schedule.peak)
    warm = min(level, schedule.peak * update / schedule.warmup_steps) if update < schedule.warmup_steps else level
    done = update - (total_steps - decay_steps)
    if done <= 0:
        return warm
    progress = done / decay_steps
    left = (1 + math.cos(math.pi * progress)) / 2 if schedule.decay == "cosine" else 1 - progress
    return min(warm, schedule.minimum + (level - schedule.minimum) * left)
