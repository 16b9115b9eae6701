"""How often to write checkpoints: too often wastes time writing them, too seldom loses work at each failure.

Young (1974) balanced the two to first order, sqrt(2 d M) for checkpoints of d seconds and M seconds between failures.
Daly (Future Generation Computer Systems 22, 2006, eq. 37) gives the higher-order estimate used here, which loses hardly
more time than the exact optimum while d < M / 2.
"""

from __future__ import annotations

import math


def daly_interval(checkpoint_seconds: float, mtbf_seconds: float) -> float:
    """Seconds of work between checkpoints that waste the least time in expectation.

    Args:
        checkpoint_seconds: time training stands still for one checkpoint.
        mtbf_seconds: mean time between failures of the whole job.

    Raises:
        ValueError: an argument is not positive.
    """
    if checkpoint_seconds <= 0 or mtbf_seconds <= 0:
        raise ValueError(f"need positive times, got checkpoint {checkpoint_seconds} s and MTBF {mtbf_seconds} s")
    if checkpoint_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds
    ratio = checkpoint_seconds / (2 * mtbf_seconds)
    young = math.sqrt(2 * checkpoint_seconds * mtbf_seconds)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_seconds


def lost_fraction(
    interval_seconds: float, checkpoint_seconds: float, mtbf_seconds: float, restart_seconds: float
) -> float:
    """Fraction of wall time that is not training, in expectation: checkpoints, repeated work and restarts.

    Exact under exponentially distributed failures (Daly 2006, eq. 20): a segment of work and its checkpoint has to pass
    without a failure, and is started again after each one.
    """
    if min(interval_seconds, checkpoint_seconds, mtbf_seconds) <= 0 or restart_seconds < 0:
        raise ValueError("need positive times")
    exponent = (interval_seconds + checkpoint_seconds) / mtbf_seconds
    if exponent + restart_seconds / mtbf_seconds > 500:  # e^500: never finishes
        return 1.0
    wall = mtbf_seconds * math.exp(restart_seconds / mtbf_seconds) * math.expm1(exponent)
    return 1 - interval_seconds / wall
