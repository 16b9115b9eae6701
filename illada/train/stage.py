"""A training stage, seen from the driver: start the ranks, follow them, publish what they made.

The same stage pretrains (from initial weights that are a pure function of the seed) and fine-tunes (from the weights of
another stage's checkpoint, with a fresh optimizer). Everything resumable is in `attempt.work`; when a previous attempt
had finished training but not published, no rank is started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illada.artifacts import Attempt, Folder, Progress, claim, write_json, write_text
from illada.config import Mixture, ModelConfig, Training, TrainPlacement
from illada.data.conversation_loader import ConversationLoader
from illada.data.mixture_loader import MixtureLoader
from illada.data.snapshots import ShardSource, SnapshotSplit
from illada.model.arithmetic import parameters
from illada.train import checkpoint, decay, straggler
from illada.train.elastic import data_ranks
from illada.train.events import EVENTS, EventCount
from illada.train.goodput import Goodput
from illada.train.inherit import inherit
from illada.train.job import Job
from illada.train.metrics import METRICS, drop_rows, mean_loss_by_noise, read_rows

TRAIN_VERSION = 3
TRAININGS = ("pretrain", "sft")
"""Names of the stages that train."""
IDENTITY = "identity.json"
"""In `work`: what the unfinished stage is, for whoever takes one of its checkpoints."""
_POLL_SECONDS = 0.5
_LAST_STEPS = 10
_FIGURES = ("loss", "lr", "grad_norm", "tokens", "tokens_per_second")


def train(
    config: Training,
    model: ModelConfig,
    shards: ShardSource,
    initial: Folder | None,
    attempt: Attempt,
    placement: TrainPlacement,
    progress: Progress,
    moves: Sequence[tuple[int, SnapshotSplit]] = (),
    earlier: Sequence[Folder] = (),
    mixture: Mixture | None = None,
) -> dict[str, Any]:
    """Train `model` on the token shards in `shards`; Ray is initialised.

    Args:
        config: objective, optimizer, schedule and duration.
        model: the architecture.
        shards: a folder of token shards where every node sees it, or a split of a snapshot.
        initial: a `checkpoint` folder to take weights from; None starts from initial ones.
        attempt: its output receives `checkpoint/`, `metrics.jsonl` and `events.jsonl`.
        placement: layout and resources; a change of it between attempts is fine.
        progress: receives steps, loss, lr, grad_norm, tokens, tokens_per_second, goodput, restarts, and loss_t0 to
            loss_t9 (of the last step that had windows in this tenth of t) about twice a second.
        mixture: what part of the tokens each source and language gives; None takes all windows alike.

    Returns:
        steps, tokens, epochs, final_loss (mean of the last ten steps), final_loss_by_noise (of the same by tenths of t,
        null where there was none), parameters, seconds_training (of steps alone), tokens_per_second, restarts, skipped,
        checkpoints (the steps at which one was published); on snapshots of a corpus `snapshots`: each with the step
        from which on it was used; and where the decay began otherwise than as planned `decay`: the step it began after,
        and why. Of a mixture `mixture`: see `MixtureLoader.table`; of conversations `conversations`: see
        `ConversationLoader.counts`.

    Raises:
        ConfigError: data, model and layout do not fit together.
        RankError: a rank died more often than the placement allows.
        StaleDriverError: a newer driver has taken the stage over.
        StageInterrupted: from `progress`; all ranks are dead by then.
    """
    job = Job(
        training=config,
        model=model,
        placement=placement,
        shards=shards,
        moves=tuple(moves),
        mixture=mixture,
        initial=initial,
        work=attempt.work,
        domain=attempt.identity.stage,
        epoch=attempt.epoch,
    )
    loader = job.loader()
    planned = decay.Horizon.planned(config, job.total_steps(loader))
    data_ranks(placement, (batch for _, batch in loader.sizes.stages))
    if job.initial is not None:
        checkpoint.require_model(checkpoint.Stored.at(job.initial), model)
    claim(job.work, job.epoch)
    identity = attempt.identity
    attempt.work.write_json(
        IDENTITY, {"version": identity.version, "config": identity.config, "inputs": identity.inputs}
    )
    if not checkpoint.published(job.work):
        inherit(job, loader, earlier, attempt.scratch)
    found = checkpoint.find(job.work, job.epoch)
    horizon = _horizon(job, found, planned)
    progress.start(horizon.total_steps, "steps")
    if found.step < horizon.total_steps:
        drop_rows(job.work, found.step)
        _run_ranks(job, attempt.scratch, found.step, horizon.total_steps, progress)
    final = checkpoint.find(job.work, job.epoch)
    horizon = _horizon(job, final, planned)
    total_steps = horizon.total_steps
    assert final.stored is not None and final.step == total_steps, "the ranks ended without their last checkpoint"
    rows, events = read_rows(job.work, METRICS), read_rows(job.work, EVENTS)
    _publish(attempt, final.stored, {METRICS: rows, EVENTS: events})
    made = [row for row in rows if not row.get("skipped")]
    last = [row["loss"] for row in made[-_LAST_STEPS:]]
    seconds = sum(row["seconds"] for row in rows)
    tokens = loader.sizes.before(total_steps) * config.window
    return {
        "steps": total_steps,
        "tokens": tokens,
        "epochs": loader.epochs(total_steps),
        "final_loss": sum(last) / len(last) if last else None,
        "final_loss_by_noise": mean_loss_by_noise(made[-_LAST_STEPS:]),
        "parameters": parameters(model).total,
        "seconds_training": seconds,
        "tokens_per_second": tokens / seconds,
        "restarts": sum(event["event"] == "restart" for event in events),
        "skipped": len(rows) - len(made),
        **({"straggler": straggler.summary(rows)} if placement.ranks > 1 else {}),
        "checkpoints": sorted({event["step"] for event in events if event["event"] == "checkpoint"}),
        **_snapshots(job),
        **({"mixture": loader.table(total_steps)} if isinstance(loader, MixtureLoader) else {}),
        **({"conversations": loader.counts()} if isinstance(loader, ConversationLoader) else {}),
        **({} if horizon.reason == "planned" else {"decay": {"step": horizon.start, "reason": horizon.reason}}),
    }


def _horizon(job: Job, found: checkpoint.Latest, planned: decay.Horizon) -> decay.Horizon:
    return decay.horizon(job.work, found.stored.manifest if found.stored else None, planned)


def _snapshots(job: Job) -> dict[str, Any]:
    used = [(0, job.shards), *job.moves]
    rows = [
        {"step": step, "snapshot": source.label, "fingerprint": source.fingerprint}
        for step, source in used
        if isinstance(source, SnapshotSplit)
    ]
    return {"snapshots": rows} if rows else {}


def _run_ranks(job: Job, scratch: Path, done: int, total_steps: int, progress: Progress) -> None:
    from illada.train.launch import Ranks  # ray.train takes half a second to import

    ranks = Ranks(job, scratch)
    state = _starting(job)
    goodput, restarts = Goodput(done), EventCount(job.work, "restart")
    try:
        ended = False
        while not ended:
            ended = ranks.wait(_POLL_SECONDS)
            row = ranks.last_row()
            if row is None or row["step"] == done:
                progress.update(done, state=state, restarts=restarts())
                continue
            if row["total_steps"] != total_steps:  # the decay has begun, and with it the end is known
                total_steps = row["total_steps"]
                progress.start(total_steps, "steps")
            skipped = "skipped" in row
            figures = {"lr": row["lr"]} if skipped else {name: row[name] for name in _FIGURES} | _by_noise(row)
            useful = goodput.observe(row["step"], 0.0 if skipped else row["seconds"])
            progress.update(row["step"], **figures, goodput=useful, restarts=restarts())
    finally:
        ranks.stop()


def _by_noise(row: Mapping[str, Any]) -> dict[str, float]:
    """Loss by noise level as figures loss_t0 to loss_t9, one a tenth of t; without those the step had nothing of."""
    return {f"loss_t{tenth}": loss for tenth, loss in enumerate(row["loss_by_noise"]) if loss is not None}


def _starting(job: Job) -> str:
    """What ranks do before their first step: on a cluster too small, they wait for it to grow."""
    import ray

    fewest = job.placement.fewest
    needed, there = fewest.ranks * fewest.cpus_per_rank, ray.cluster_resources().get("CPU", 0)
    return "starting ranks" if needed <= there else f"waiting for {needed:g} CPUs, the cluster has {there:g}"


def _publish(attempt: Attempt, final: checkpoint.Stored, tables: Mapping[str, list[dict[str, Any]]]) -> None:
    """Adopt the last checkpoint, without where it was and its fencing epoch: these belong to the driver."""
    for name, file in final.manifest["files"].items():
        attempt.adopt(final.folder, name, f"checkpoint/{name}", sha256=file["sha256"])
    manifest = {name: value for name, value in final.manifest.items() if name not in ("epoch", "data")}
    write_json(attempt.output / "checkpoint" / checkpoint.MANIFEST, manifest)
    for name, rows in tables.items():
        write_text(attempt.output / name, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
