"""Where and on what a run happens. Nothing here changes a result, so nothing here is part of any fingerprint."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from illada.config.base import Config


class DataPlacement(Config):
    """Long-lived Ray actors of the data stages: how many at most, and what Ray sets aside for each of them.

    `memory_gb` is also what an autoscaler chooses nodes by; without it a worker counts by its processors only.
    """

    workers: int = Field(default=2, gt=0)
    cpus_per_worker: float = Field(default=1.0, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)


class TrainPlacement(Config):
    """Ranks of a training stage = tensor x context x pipeline x data; `micro_batch` windows go through at a time.

    `tensor` divides matrices, and between them the tokens of a window; `context` divides the tokens everywhere, so that
    long windows fit. A rank has `virtual` pipeline stages, taken in turns, which makes the pipeline's bubble as many
    times smaller. On CPUs a rank computes with as many threads as `cpus_per_rank` has whole ones, at least one. With
    `min_data` a training also runs on fewer data-parallel ranks than `data`, down to this many, where the cluster has
    no room for more, and grows again with it. `max_failures` is how often lost ranks are started again without a new
    checkpoint in between. A rank that tells nothing, or whose loop does not move, for `hang_seconds` counts as lost: a
    step, and writing a checkpoint, have to take less, what comes before the first step need not. None leaves it to the
    communication library's half hour.
    """

    tensor: int = Field(default=1, gt=0)
    context: int = Field(default=1, gt=0)
    pipeline: int = Field(default=1, gt=0)
    virtual: int = Field(default=1, gt=0)
    data: int = Field(default=1, gt=0)
    min_data: int | None = Field(default=None, gt=0)
    micro_batch: int = Field(default=1, gt=0)
    cpus_per_rank: float = Field(default=1.0, gt=0)
    gpus_per_rank: float = Field(default=0.0, ge=0)
    checkpoint_steps: int = Field(default=1000, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    max_failures: int = Field(default=3, ge=0)
    hang_seconds: float | None = Field(default=900.0, ge=2)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.virtual > 1 and self.pipeline == 1:
            raise ValueError(f"virtual {self.virtual} needs a pipeline: it is stages of each of its ranks")
        if self.min_data is not None and self.min_data > self.data:
            raise ValueError(f"min_data {self.min_data} is more than data {self.data}: it is the fewest there may be")
        return self

    def on(self, ranks: int) -> Self:
        """The layout of so many ranks, which differs in `data` alone, see `illada.train.elastic`."""
        return self.model_copy(update={"data": ranks // (self.ranks // self.data)})

    @property
    def fewest(self) -> Self:
        """The layout of the fewest ranks that may be asked for; each of them has the most to hold."""
        return self.model_copy(update={"data": self.min_data or self.data})

    @property
    def layout(self) -> dict[str, int]:
        """How the model and its batches are divided."""
        return {name: getattr(self, name) for name in ("tensor", "context", "pipeline", "virtual", "data")}

    @property
    def ranks(self) -> int:
        """Number of training processes, where the cluster has room for all."""
        return self.tensor * self.context * self.pipeline * self.data


class Placement(Config):
    """Paths are relative to the working directory unless absolute. `ray_address` None starts an embedded Ray.

    `store` may be an `s3://bucket/prefix`; credentials and endpoint come from the environment.
    A run's summary, report and release go to `output`, in a folder of the run's name.
    """

    store: str = "out/store"
    output: str = "out"
    database: str | None = None
    ray_address: str | None = None
    ray_cpus: int | None = Field(default=None, gt=0)
    object_store_mb: int = Field(default=200, ge=80)
    data: DataPlacement = DataPlacement()
    pretrain: TrainPlacement = TrainPlacement()
    sft: TrainPlacement = TrainPlacement()
