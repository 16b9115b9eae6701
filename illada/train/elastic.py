"""How many data-parallel ranks a training may have, when the cluster is smaller than wanted.

Everything that a batch is made of is a pure function of the step and the row, so the number of ranks changes which of
them computes a row, and in which order float32 sums are taken, but not what is trained on. A batch must be divisible,
so not every number will do. `illada.train.scaling` decides which it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from illada.config import ConfigError, TrainPlacement


def data_ranks(placement: TrainPlacement, batches: Iterable[int]) -> list[int]:
    """The numbers of data-parallel ranks that may be, ascending; one unless `min_data` allows for fewer than `data`.

    Raises:
        ConfigError: a batch is not divisible by the ranks wanted, or by none that is fewer though fewer are allowed.
    """
    wanted, batches = placement.data, list(batches)
    factors = {"micro_batch": placement.micro_batch}
    if placement.virtual > 1:  # interleaved stages take as many micro-batches at a time as there are
        factors["pipeline"] = placement.pipeline

    def indivisible(data: int) -> list[int]:
        return [batch for batch in batches if batch % (data * math.prod(factors.values()))]

    for batch in indivisible(wanted):
        raise ConfigError(
            f"a batch of {batch} is not a multiple of {' x '.join(['data', *factors])} = "
            f"{' x '.join(map(str, [wanted, *factors.values()]))}"
        )
    least = wanted if placement.min_data is None else placement.min_data
    found = [data for data in range(least, wanted + 1) if not indivisible(data)]
    if least < wanted and found == [wanted]:
        raise ConfigError(
            f"min_data {least}: no number of ranks from {least} to {wanted - 1}, times {' x '.join(factors)}, divides "
            f"batches of {', '.join(map(str, sorted(set(batches))))}; lower min_data"
        )
    return found
