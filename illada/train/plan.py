"""What a run will cost before it starts: parameters, memory, operations, time, storage, and what will not fit.

Pure arithmetic on a configuration and a cluster; starts nothing, reads no data. Lengths that depend on data which is
not there yet are estimated, and `assumptions` says how.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illada.config import Training, TrainPlacement, WorkflowConfig
from illada.data.batch_sizes import BatchSizes
from illada.model.arithmetic import parameters, training_flops
from illada.train.cadence import daly_interval, lost_fraction
from illada.train.cluster import Cluster
from illada.train.memory import RankMemory, rank_memory

__all__ = ["CheckpointPlan", "Cluster", "ParameterPlan", "Plan", "TrainingPlan", "plan"]

BYTES_PER_TOKEN = 4.0  # of text; English under a vocabulary of 100,000 and more
TEXT_COMPRESSION = 0.4  # Parquet with zstd over plain text
TOKENS_PER_CONVERSATION = 2000  # of the user's own instruction data, for want of any published figure
_FULL = 0.9  # of device memory: CUDA context, communication buffers and fragmentation need the rest
_BUBBLE = 0.1  # of the time; less is not worth a word
_WASTE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterPlan:
    """Trainable parameters; a tied embedding counts once. `active` ones work on each token: all, in a dense model."""

    total: int
    non_embedding: int
    embedding: int
    active: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPlan:
    """One checkpoint, the best interval between two (Daly), the configured one, and the time lost with either."""

    bytes: int
    seconds: float
    best_interval_seconds: float
    best_interval_steps: int
    best_lost_fraction: float
    interval_steps: int
    lost_fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """One training stage. What depends on its length is None when the configuration does not tell it.

    `tokens_per_step` and what follows from it are those of the full batch, which a ramp ends with. `memory_per_rank` is
    that of the fewest ranks there may be. `flops_per_token` is forward and backward. `days` is of useful work,
    `days_with_failures` of wall time, expected.
    """

    ranks: int
    tokens_per_step: int
    steps: int | None
    tokens: float | None
    flops_per_token: float
    flops: float | None
    seconds_per_step: float
    device_hours: float | None
    days: float | None
    days_with_failures: float | None
    pipeline_bubble: float
    memory_per_rank: Mapping[str, int]
    checkpoint: CheckpointPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The whole plan; `storage` is bytes by stage."""

    name: str
    cluster: Cluster
    parameters: ParameterPlan
    pretrain: TrainingPlan
    sft: TrainingPlan
    storage: Mapping[str, float]
    assumptions: Sequence[str]
    warnings: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; keys are the attribute names (`parameters.total`, `pretrain.device_hours`, ...)."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def plan(config: WorkflowConfig, cluster: Cluster) -> Plan:
    """Plan `config` on `cluster`."""
    count = parameters(config.model)
    corpus = _conversation_tokens(config) * (1 - config.data.pairs.held_out)
    rows = corpus / config.sft.window
    if config.sft.objective.responses is not None:
        rows = config.data.pairs.max_pairs * (1 - config.data.pairs.held_out)
    pretrain = _training(config, config.pretrain, config.placement.pretrain, None, cluster)
    sft = _training(config, config.sft, config.placement.sft, rows, cluster)
    return Plan(
        name=config.name,
        cluster=cluster,
        parameters=ParameterPlan(
            total=count.total, non_embedding=count.non_embedding, embedding=count.embedding, active=count.active
        ),
        pretrain=pretrain,
        sft=sft,
        storage=_storage(config, count.total, pretrain, sft, corpus),
        assumptions=_assumptions(config, corpus),
        warnings=[
            *_warnings("pretrain", config.placement.pretrain, pretrain, cluster),
            *_warnings("sft", config.placement.sft, sft, cluster),
        ],
    )


def checkpoint_bytes(parameters_total: int, dtype: str) -> int:
    """Size of one checkpoint: the weights as trained, and float32 main weights and two moments."""
    return parameters_total * ((2 if dtype == "bfloat16" else 4) + 12)


def _training(
    config: WorkflowConfig, training: Training, placement: TrainPlacement, rows: float | None, cluster: Cluster
) -> TrainingPlan:
    """`rows`: windows or conversations of one epoch, None when unknown."""
    tokens_per_step = training.global_batch * training.window
    sizes = BatchSizes.of(training)
    steps = training.steps
    if steps is None and training.epochs is not None and rows is not None:
        steps = sizes.steps(training.epochs * int(rows)) or None
    tokens = None if steps is None else float(sizes.before(steps) * training.window)
    per_token = training_flops(config.model, window=training.window, objective=training.objective)
    seconds_per_step = per_token * tokens_per_step / cluster.flops
    checkpoint = _checkpoint(config, training, placement, seconds_per_step, cluster)
    days = None if tokens is None else tokens / tokens_per_step * seconds_per_step / 86400
    memory = rank_memory(config.model, training, placement.fewest)
    micro_batches = training.global_batch // (placement.data * placement.micro_batch)
    return TrainingPlan(
        ranks=placement.ranks,
        tokens_per_step=tokens_per_step,
        steps=steps,
        tokens=tokens,
        flops_per_token=per_token,
        flops=None if tokens is None else per_token * tokens,
        seconds_per_step=seconds_per_step,
        device_hours=None if days is None else days * 24 * cluster.devices,
        days=days,
        days_with_failures=None
        if days is None or checkpoint.lost_fraction >= 1
        else days / (1 - checkpoint.lost_fraction),
        pipeline_bubble=(placement.pipeline - 1) / (micro_batches * placement.virtual + placement.pipeline - 1),
        memory_per_rank=_by_part(memory),
        checkpoint=checkpoint,
    )


def _by_part(memory: RankMemory) -> dict[str, int]:
    return dataclasses.asdict(memory) | {"total": memory.total}


def _checkpoint(
    config: WorkflowConfig, training: Training, placement: TrainPlacement, seconds_per_step: float, cluster: Cluster
) -> CheckpointPlan:
    size = checkpoint_bytes(parameters(config.model).total, training.dtype)
    seconds = size / (cluster.write_gb_per_second * 1e9)
    mtbf = cluster.mtbf_hours * 3600 / cluster.devices
    best = daly_interval(seconds, mtbf)
    restart = cluster.restart_minutes * 60
    return CheckpointPlan(
        bytes=size,
        seconds=seconds,
        best_interval_seconds=best,
        best_interval_steps=max(1, round(best / seconds_per_step)),
        best_lost_fraction=lost_fraction(best, seconds, mtbf, restart),
        interval_steps=placement.checkpoint_steps,
        lost_fraction=lost_fraction(placement.checkpoint_steps * seconds_per_step, seconds, mtbf, restart),
    )


def _conversation_tokens(config: WorkflowConfig) -> float:
    pairs = config.data.pairs
    each = TOKENS_PER_CONVERSATION if pairs.files else pairs.max_characters / BYTES_PER_TOKEN
    return pairs.max_pairs * each


def _storage(
    config: WorkflowConfig, total: int, pretrain: TrainingPlan, sft: TrainingPlan, corpus: float
) -> dict[str, float]:
    id_bytes = 2 if config.model.vocab_size <= 2**16 else 4
    place = config.placement
    storage: dict[str, float] = {}
    if pretrain.tokens is not None:
        storage["deduplicate"] = pretrain.tokens * BYTES_PER_TOKEN * TEXT_COMPRESSION
        storage["tokenize"] = pretrain.tokens * id_bytes
    storage["pairs"] = corpus * (id_bytes + BYTES_PER_TOKEN * TEXT_COMPRESSION)
    # one more than is kept: a new checkpoint is whole before an old one goes
    storage["pretrain"] = float(pretrain.checkpoint.bytes * (place.pretrain.keep_checkpoints + 1))
    storage["sft"] = float(sft.checkpoint.bytes * (place.sft.keep_checkpoints + 1))
    for stage in ("export-base", "export-sft", "release"):
        storage[stage] = float(4 * total)
    return storage | {"total": sum(storage.values())}


def _assumptions(config: WorkflowConfig, corpus: float) -> list[str]:
    found = [
        f"text: {BYTES_PER_TOKEN:g} bytes a token, Parquet with zstd at {TEXT_COMPRESSION:g} of it; the sources and "
        "what `curate` keeps before deduplication come on top",
        "every pretraining token is seen once: shards hold as many as are trained on",
        "memory: no recomputation; CUDA context and communication buffers come on top",
    ]
    apart = [
        stage
        for stage, training in (("pretrain", config.pretrain), ("sft", config.sft))
        if training.objective.isolate_documents
    ]
    if apart:
        found.append(f"{', '.join(apart)}: documents attend within themselves; attention counts as of whole windows")
    if config.sft.epochs is not None:
        pairs = config.data.pairs
        each = (
            f"{TOKENS_PER_CONVERSATION} tokens"
            if pairs.files
            else f"at most {pairs.max_characters} characters, {BYTES_PER_TOKEN:g} a token"
        )
        found.append(f"sft: {pairs.max_pairs:,} conversations of {each} give {corpus / 1e9:.3g} B tokens an epoch")
    if config.sft.objective.responses is not None:
        found.append(
            f"sft: a conversation a row, each as costly as a whole window of {config.sft.window}: the most it can"
        )
    return found


def _warnings(stage: str, placement: TrainPlacement, made: TrainingPlan, cluster: Cluster) -> list[str]:
    found = []
    key = f"placement.{stage}"
    need, have = made.memory_per_rank["total"] / 1e9, cluster.device_memory_gb
    if need > have:
        found.append(
            f"{stage}: does not fit: {need:.1f} GB a rank, a device has {have:g} GB; raise {key}.tensor, "
            f"{key}.context, {key}.pipeline or {key}.data, or lower {key}.micro_batch"
        )
    elif need > _FULL * have:
        found.append(f"{stage}: {need:.1f} GB a rank leaves little of {have:g} GB for CUDA and communication buffers")
    if made.pipeline_bubble > _BUBBLE:
        found.append(
            f"{stage}: {made.pipeline_bubble:.0%} of the time is pipeline bubble; more micro-batches a step shrink it, "
            f"or more virtual stages ({key}.virtual)"
        )
    if made.steps is None:
        found.append(f"{stage}: its length depends on the data, so there are no totals")
    if not placement.gpus_per_rank:
        found.append(f"{stage}: is placed on CPUs ({key}.gpus_per_rank is 0); the times are those of the devices above")
        return found
    if placement.ranks != cluster.devices:
        found.append(
            f"{stage}: is placed on {placement.ranks} ranks, the times are of {cluster.devices} devices; {key}.data "
            "sets the ranks"
        )
    checkpoint = made.checkpoint
    if checkpoint.lost_fraction - checkpoint.best_lost_fraction > _WASTE:
        found.append(
            f"{stage}: checkpoints every {checkpoint.interval_steps} steps lose {checkpoint.lost_fraction:.1%} of the "
            f"time, every {checkpoint.best_interval_steps} {checkpoint.best_lost_fraction:.1%} ({key}.checkpoint_steps)"
        )
    return found
