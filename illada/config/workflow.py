"""The whole configuration of a run, and every check that needs more than one part of it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from illada.config.base import Config
from illada.config.data import DataConfig
from illada.config.evaluation import Evaluate, Generate
from illada.config.model import ModelConfig
from illada.config.placement import Placement, TrainPlacement
from illada.config.release import Release
from illada.config.training import RESPONSE_STEP, Training


class RunConfig(Config):
    """What the configurations of all workflows have in common; `workflow` tells which one a run goes through.

    `name` is the default run id; everything but `placement` is identity.
    """

    workflow: str
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    placement: Placement = Placement()

    def identity(self) -> dict[str, Any]:
        """Everything that can change a result; two configurations with equal identity are the same run."""
        return self.model_dump(mode="json", exclude={"placement"})


class WorkflowConfig(RunConfig):
    """One run from sources to release: the workflow of a configuration that names none."""

    workflow: Literal["crawl-to-release"] = "crawl-to-release"
    data: DataConfig
    model: ModelConfig
    pretrain: Training
    sft: Training
    evaluate: Evaluate = Evaluate()
    generate: Generate = Generate()
    release: Release

    def identity(self) -> dict[str, Any]:
        """Without `workflow`, which this record always has: runs from before there was a choice stay the same runs.

        Without waivers too: they are given when a gate has failed, for that run to go on.
        """
        return self.model_dump(mode="json", exclude={"placement": True, "workflow": True, "release": {"waivers"}})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data.tokenizer.vocab_size != self.model.vocab_size:
            raise ValueError(
                f"model.vocab_size {self.model.vocab_size} must equal data.tokenizer.vocab_size "
                f"{self.data.tokenizer.vocab_size}"
            )
        for move in self.data.corpus.moves if self.data.corpus else ():
            if self.pretrain.steps is None or move.step >= self.pretrain.steps:
                raise ValueError(
                    f"data.corpus.moves: step {move.step} is not one of pretrain's "
                    + ("epochs: give pretrain.steps" if self.pretrain.steps is None else f"{self.pretrain.steps} steps")
                )
        if self.data.mixture is not None:
            if self.pretrain.steps is None:
                raise ValueError("data.mixture divides pretrain's tokens: give pretrain.steps, not pretrain.epochs")
            if self.data.corpus is not None and self.data.corpus.moves:
                raise ValueError(
                    "data.mixture is planned for one set of shards: leave out data.corpus.moves, or the mixture"
                )
        if self.pretrain.objective.responses is not None:
            raise ValueError("pretrain.objective.responses: text has no responses; it is a setting of sft.objective")
        for stage, training, placement in (
            ("pretrain", self.pretrain, self.placement.pretrain),
            ("sft", self.sft, self.placement.sft),
        ):
            if training.window > self.model.max_positions:
                raise ValueError(
                    f"{stage}.window {training.window} is longer than model.max_positions {self.model.max_positions}"
                )
            _check_layout(stage, training, placement, self.model)
            _check_attention(stage, training, placement, self.model)
        return self


def _check_attention(stage: str, training: Training, placement: TrainPlacement, model: ModelConfig) -> None:
    needed = {"masked": "bidirectional", "autoregressive": "causal"}[training.objective.kind]
    if model.attention != needed:
        raise ValueError(
            f"{stage}.objective.kind {training.objective.kind} needs model.attention {needed}, not {model.attention}"
        )
    if placement.context > 1 and needed == "causal":
        raise ValueError(f"placement.{stage}.context: causal attention is not divided over ranks; use the other ways")


def _check_layout(stage: str, training: Training, placement: TrainPlacement, model: ModelConfig) -> None:
    tensor, pipeline = placement.tensor, placement.pipeline
    for what, count in (
        ("model.heads", model.heads),
        ("model.kv_heads", model.kv_heads),
        ("model.ffn_size", model.ffn_size),
        ("model.vocab_size", model.vocab_size),
    ):
        if count % tensor:
            raise ValueError(f"placement.{stage}.tensor {tensor} does not divide {what} {count}")
    stages = pipeline * placement.virtual
    if model.layers % stages:
        what = f"pipeline {pipeline}" + (f" x virtual {placement.virtual}" if placement.virtual > 1 else "")
        raise ValueError(f"placement.{stage}.{what} does not divide model.layers {model.layers}")
    lengths = {f"{stage}.window": training.window}
    if training.objective.responses is not None:
        lengths["conversations, whose length is a multiple of"] = RESPONSE_STEP
    for what, length in lengths.items():
        if length % (tensor * placement.context):
            raise ValueError(
                f"placement.{stage}.tensor {tensor} x context {placement.context} does not divide {what} {length}"
            )
    per_step = placement.data * placement.micro_batch
    ramp = [(f"batch_ramp: {part.batch}", part.batch) for part in training.batch_ramp]
    for what, batch in (("global_batch " + str(training.global_batch), training.global_batch), *ramp):
        if batch % per_step:
            raise ValueError(f"{stage}.{what} is not a multiple of placement.{stage}.data x micro_batch = {per_step}")
        if placement.virtual > 1 and batch // per_step % pipeline:
            raise ValueError(
                f"{stage}.{what} gives {batch // per_step} micro-batches a step: with placement.{stage}.virtual they "
                f"have to be a multiple of pipeline {pipeline}"
            )
