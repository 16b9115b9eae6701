"""How many windows a global step takes: a pure function of the step, which may grow in stages (`training.batch_ramp`).

A stage lasts until so many tokens have been trained on, as ramps are published (GPT-3, arXiv 2005.14165, appendix B;
Llama 3, arXiv 2407.21783, 3.4.1), rounded up to whole steps. Rows are counted from 0 over all steps, so that the order
of windows knows nothing of batches: a ramp changes where it is cut, not what comes next.
"""

from __future__ import annotations

import bisect
import math
from typing import Self

from illada.config import Training


class BatchSizes:
    """Windows of each global step, from the (first step, windows a step) of each stage; the first begins at step 0."""

    def __init__(self, stages: list[tuple[int, int]]) -> None:
        self.stages = stages
        self._starts = [start for start, _ in stages]
        self._sizes = [size for _, size in stages]
        self._rows = [0]  # before each stage
        for (start, size), end in zip(stages, self._starts[1:], strict=False):
            self._rows.append(self._rows[-1] + (end - start) * size)

    @classmethod
    def of(cls, training: Training) -> Self:
        """Those of a training stage."""
        stages, step, rows = [], 0, 0
        for stage in training.batch_ramp:
            until = math.ceil(stage.until_tokens / training.window)
            steps = -(-(until - rows) // stage.batch)
            if steps > 0:  # the stage before may have passed the end of this one with its last step
                stages.append((step, stage.batch))
                step, rows = step + steps, rows + steps * stage.batch
        return cls([*stages, (step, training.global_batch)])

    def after(self, step: int) -> BatchSizes:
        """The sizes from `step` on, counted from there."""
        last = self._stage(step)
        later = zip(self._starts[last + 1 :], self._sizes[last + 1 :], strict=True)
        return BatchSizes([(0, self._sizes[last]), *((start - step, size) for start, size in later)])

    def size(self, step: int) -> int:
        """Windows of a step."""
        return self._sizes[self._stage(step)]

    def before(self, step: int) -> int:
        """Windows of all steps before this one."""
        stage = self._stage(step)
        return self._rows[stage] + (step - self._starts[stage]) * self._sizes[stage]

    def steps(self, rows: int) -> int:
        """Whole steps in so many windows."""
        stage = bisect.bisect_right(self._rows, rows) - 1
        return self._starts[stage] + (rows - self._rows[stage]) // self._sizes[stage]

    def _stage(self, step: int) -> int:
        if step < 0:
            raise ValueError(f"step {step}: steps are counted from 0")
        return bisect.bisect_right(self._starts, step) - 1
