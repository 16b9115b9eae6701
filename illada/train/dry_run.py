"""`illada plan --dry-run`: the plan's figures of every rank against those of the rank itself, built without memory."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from illada.config import Training, TrainPlacement, WorkflowConfig
from illada.model.arithmetic import parameters
from illada.train.fake_ranks import Built, build
from illada.train.memory import rank_parameters, stage_memory

LIMIT = 0.05
"""Largest share by which a built figure may differ from the planned one."""


class PlanError(ValueError):
    """The plan is not what would be built."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a rank's memory, in bytes."""

    name: str
    built: int
    planned: int

    @property
    def difference(self) -> float:
        """Built over planned, less one."""
        return self.built / self.planned - 1 if self.planned else float(self.built > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReport:
    """The ranks of a pipeline stage in a training stage; `parameters` are those of one rank."""

    stage: str
    pipeline_stage: int
    ranks: int
    parameters: int
    parts: Sequence[Part]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; `difference` is a fraction of the planned figure."""
        made = {part.name: dataclasses.asdict(part) | {"difference": part.difference} for part in self.parts}
        for part in made.values():
            del part["name"]
        return dataclasses.asdict(self) | {"parts": made}


def build_ranks(config: WorkflowConfig) -> dict[str, Built]:
    """Build every rank of both training stages, one after another, in a process of their own.

    Raises:
        PlanError: a layout does not divide the model, or its ranks do not hold it.
    """
    built = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
        for stage, training, placement in _stages(config):
            try:
                built[stage] = process.submit(build, config.model, training, placement).result()
            except ValueError as error:
                raise PlanError(f"{stage}: {error}") from error
    return built


def reports(config: WorkflowConfig, built: Mapping[str, Built]) -> list[RankReport]:
    """Each rank built beside the plan's figures."""
    made = []
    for stage, training, placement in _stages(config):
        for rank in built[stage].ranks:
            planned = stage_memory(rank.pipeline_stage, config.model, training, placement)
            names = ("weights", "gradients", "optimizer", "activations", "scratch")
            parts = [Part(name=name, built=getattr(rank, name), planned=getattr(planned, name)) for name in names]
            total = Part(name="total", built=sum(part.built for part in parts), planned=planned.total)
            made.append(
                RankReport(
                    stage=stage,
                    pipeline_stage=rank.pipeline_stage,
                    ranks=placement.ranks // placement.pipeline,
                    parameters=rank.parameters,
                    parts=[*parts, total],
                )
            )
    return made


def check(config: WorkflowConfig, built: Mapping[str, Built]) -> None:
    """Hold what was built against the plan.

    Raises:
        PlanError: another number of parameters, or memory that differs by more than `LIMIT`. Scratch counts in the
            total only.
    """
    found = list(_wrong(config, built))
    if found:
        raise PlanError("the plan is not what would be built: " + "; ".join(found))


def _wrong(config: WorkflowConfig, built: Mapping[str, Built]) -> Iterator[str]:
    whole = parameters(config.model).total
    for stage, _, placement in _stages(config):
        if built[stage].parameters != whole:
            yield f"{stage}: the ranks hold {built[stage].parameters:,} parameters together, planned are {whole:,}"
        for rank in built[stage].ranks:
            planned = rank_parameters(config.model, placement, rank.pipeline_stage)
            if rank.parameters != planned:
                yield (
                    f"{stage}: a rank of pipeline stage {rank.pipeline_stage} has {rank.parameters:,} parameters, "
                    f"planned are {planned:,}"
                )
    for report in reports(config, built):
        for part in report.parts:
            if part.name != "scratch" and abs(part.difference) > LIMIT:
                yield (
                    f"{report.stage}: {part.name} of pipeline stage {report.pipeline_stage} differ by "
                    f"{part.difference:+.1%} ({part.built / 1e9:.3f} GB built, {part.planned / 1e9:.3f} GB planned)"
                )


def _stages(config: WorkflowConfig) -> tuple[tuple[str, Training, TrainPlacement], ...]:
    placement = config.placement
    return ("pretrain", config.pretrain, placement.pretrain), ("sft", config.sft, placement.sft)
