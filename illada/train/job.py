"""What the driver tells every rank about a training stage: configurations, locations and numbers, as plain JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from illada.artifacts import Folder
from illada.config import Mixture, ModelConfig, Training, TrainPlacement
from illada.data.batch_sizes import BatchSizes
from illada.data.conversation_loader import ConversationLoader
from illada.data.conversations import Conversations
from illada.data.loader import Loader, MovingLoader
from illada.data.mixture_loader import MixtureLoader
from illada.data.snapshots import ShardSource, SnapshotSplit, open_shards
from illada.data.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training stage. `domain` names its stream of order and noise; `epoch` is the driver's fencing epoch.

    `moves` are the steps from which on it uses other shards. With a `mixture` there are none, and `training` has steps.
    """

    training: Training
    model: ModelConfig
    placement: TrainPlacement
    shards: ShardSource
    initial: Folder | None
    work: Folder
    domain: str
    epoch: int
    moves: tuple[tuple[int, ShardSource], ...] = ()
    mixture: Mixture | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "training": self.training.identity(),
            "model": self.model.identity(),
            "placement": self.placement.identity(),
            "shards": _plain(self.shards),
            "moves": [[step, _plain(shards)] for step, shards in self.moves],
            "mixture": self.mixture.identity() if self.mixture else None,
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
            shards=_source(value["shards"]),
            moves=tuple((step, _source(shards)) for step, shards in value["moves"]),
            mixture=Mixture.model_validate(value["mixture"]) if value["mixture"] else None,
            initial=Folder.at(value["initial"]) if value["initial"] else None,
            work=Folder.at(value["work"]),
            domain=value["domain"],
            epoch=value["epoch"],
        )

    def loader(self) -> Loader:
        """The stage's batches.

        Raises:
            ValueError: there is too little data for one.
            ConfigError: the data cannot give what the mixture asks for.
        """
        training = self.training
        if self.mixture is not None:
            assert not self.moves, "the configuration is checked for this"
            return MixtureLoader.of(open_shards(self.shards), self.mixture, training, domain=self.domain)
        domain, sizes = self.domain, BatchSizes.of(training)
        if training.objective.responses is not None:
            conversations = Conversations(open_shards(self.shards), training.window)
            return ConversationLoader(
                conversations, training.global_batch, training.seed, training.objective, domain=domain, sizes=sizes
            )
        windows, *later = (
            Windows(open_shards(source), training.window)
            for source in (self.shards, *(shards for _, shards in self.moves))
        )
        if not later:
            return Loader(windows, training.global_batch, training.seed, training.objective, domain=domain, sizes=sizes)
        moves = list(zip((step for step, _ in self.moves), later, strict=True))
        return MovingLoader(
            windows, moves, training.global_batch, training.seed, training.objective, domain=domain, sizes=sizes
        )

    def shards_at(self, step: int) -> ShardSource:
        """The shards that a global step, counted from 0, takes its windows from."""
        return [self.shards, *(shards for start, shards in self.moves if start <= step)][-1]

    def total_steps(self, loader: Loader) -> int:
        """Updates in all: `steps`, or the whole batches in `epochs`."""
        if self.training.steps is not None:
            return self.training.steps
        assert self.training.epochs is not None
        return loader.steps(self.training.epochs)


def _plain(source: ShardSource) -> str | dict[str, str]:
    return dataclasses.asdict(source) if isinstance(source, SnapshotSplit) else source.url


def _source(value: str | dict[str, str]) -> ShardSource:
    return Folder.at(value) if isinstance(value, str) else SnapshotSplit(**value)
