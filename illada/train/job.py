"""What the driver tells every rank about a training stage: configurations, locations and numbers, as plain JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from illada.artifacts import Folder
from illada.config import ModelConfig, Training, TrainPlacement
from illada.data.loader import Loader
from illada.data.shards import TokenShards
from illada.data.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training stage. `domain` names its stream of order and noise; `epoch` is the driver's fencing epoch."""

    training: Training
    model: ModelConfig
    placement: TrainPlacement
    shards: Folder
    initial: Folder | None
    work: Folder
    domain: str
    epoch: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "training": self.training.identity(),
            "model": self.model.identity(),
            "placement": self.placement.identity(),
            "shards": str(self.shards),
            "initial": str(self.initial) if self.initial else None,
            "work": str(self.work),
            "domain": self.domain,
            "epoch": self.epoch,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(
            training=Training.model_validate(value["training"]),
            model=ModelConfig.model_validate(value["model"]),
            placement=TrainPlacement.model_validate(value["placement"]),
            shards=Folder.at(value["shards"]),
            initial=Folder.at(value["initial"]) if value["initial"] else None,
            work=Folder.at(value["work"]),
            domain=value["domain"],
            epoch=value["epoch"],
        )

    def loader(self) -> Loader:
        """The stage's batches. ValueError when there is too little data for one."""
        windows = Windows(TokenShards.open(self.shards), self.training.window)
        return Loader(
            windows, self.training.global_batch, self.training.seed, self.training.objective, domain=self.domain
        )

    def total_steps(self, loader: Loader) -> int:
        """Updates in all: `steps`, or the whole batches in `epochs`."""
        if self.training.steps is not None:
            return self.training.steps
        assert self.training.epochs is not None
        return loader.steps(self.training.epochs)
