"""Which checkpoints a run has, finished or not, and how one that training may remove is made an artifact of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from illada.artifacts import (
    Artifact,
    Attempt,
    Folder,
    Progress,
    StageIdentity,
    Store,
    fingerprint,
    sha256_file,
    write_json,
)
from illada.config import Checkpoint, ConfigError, ModelConfig, Training
from illada.data.batch_sizes import BatchSizes
from illada.data.snapshots import STAGE as SNAPSHOT
from illada.data.snapshots import read_snapshot
from illada.model.arithmetic import parameters
from illada.train.checkpoint import MANIFEST, CheckpointError, open_step, published
from illada.train.metrics import METRICS, read_rows
from illada.train.stage import IDENTITY, TRAININGS

CHECKPOINT_VERSION = 1
STAGE = "checkpoint"
MOVE = "tokens-from-step-"
"""What the inputs of `pretrain` that it moves to at a step are called, before the step."""
_LAST_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A checkpoint there is. `kind`: a stage's result, one of an unfinished stage, or one made an artifact before."""

    kind: Literal["result", "unfinished", "kept"]
    step: int
    checkpoint: Checkpoint


def find_checkpoints(store: Store, run: str, stages: Iterable[tuple[str, str]]) -> list[Found]:
    """Every checkpoint of a run's training stages, in the order of stages and steps.

    Args:
        stages: (name, fingerprint) of every stage the run has reached.
    """
    kept = store.artifacts(STAGE)
    found = []
    for stage, digest in stages:
        if stage not in TRAININGS or not digest:
            continue
        here = {entry.step: entry for entry in _kept(run, stage, digest, kept)}
        here |= {entry.step: entry for entry in _of_stage(store, run, stage, digest)}
        found += [here[step] for step in sorted(here)]
    return found


def choose(found: list[Found], run: str, stage: str | None, step: int | None) -> Found:
    """The checkpoint of that stage and step; without a step the stage's result, without a stage the last that has one.

    Raises:
        ConfigError: there is none; says which there are.
    """
    there = ", ".join(f"{entry.checkpoint.stage} step {entry.step} ({entry.kind})" for entry in found) or "none"
    fitting = [entry for entry in found if stage in (None, entry.checkpoint.stage)]
    fitting = [entry for entry in fitting if (entry.kind == "result" if step is None else entry.step == step)]
    if fitting:
        return fitting[-1]
    wanted = f"has no checkpoint of step {step}" if step else "has not ended"
    raise ConfigError(
        f"run {run!r}: {stage or 'training'} {wanted}; its checkpoints: {there}; name one with --stage and --step"
    )


def stage_identity(checkpoint: Checkpoint) -> StageIdentity:
    """The identity of the training stage."""
    return StageIdentity(
        stage=checkpoint.stage, version=checkpoint.version, config=checkpoint.config, inputs=checkpoint.inputs
    )


def adopted_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the artifact that is made of a checkpoint depends on, besides the inputs of its stage."""
    return {
        **checkpoint.config,
        "of": {
            "stage": checkpoint.stage,
            "version": checkpoint.version,
            "fingerprint": stage_identity(checkpoint).fingerprint,
        },
        "step": checkpoint.step,
        "content": checkpoint.content,
    }


def adopt_checkpoint(
    checkpoint: Checkpoint, store: Store, corpus_tokens: int, attempt: Attempt, *, progress: Progress
) -> dict[str, Any]:
    """Make a checkpoint of an unfinished stage part of an artifact, and check every byte of it there.

    The stage may go on, remove the checkpoint or end meanwhile: files are taken first and checked afterwards.

    Returns:
        What a training stage returns of itself, as far as it is known at this step.

    Raises:
        CheckpointError: it is gone, incomplete or damaged.
    """
    assert checkpoint.step is not None
    identity = stage_identity(checkpoint)
    work = store.folder(identity.stage, identity.fingerprint) / "work"
    where = f"step {checkpoint.step} of {checkpoint.stage}/{identity.fingerprint[:12]}"
    try:
        stored = open_step(work, checkpoint.step)
        if _content(stored.manifest) != checkpoint.content:
            raise CheckpointError(f"{where}: was written again since it was chosen; start the release again")
        files = stored.manifest["files"]
        progress.start(2 * len(files), "files")
        for done, name in enumerate(files, start=1):
            attempt.adopt(stored.folder, name, f"checkpoint/{name}")
            progress.update(done)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: is incomplete or was removed just now ({error.filename} is missing)") from None
    for done, (name, file) in enumerate(files.items(), start=len(files) + 1):
        path = attempt.location.fetch(f"checkpoint/{name}", file["sha256"])
        if path.stat().st_size != file["bytes"] or sha256_file(path) != file["sha256"]:
            raise CheckpointError(f"{where}: {name} is not as its manifest says; the checkpoint is damaged")
        progress.update(done)
    kept = {name: value for name, value in stored.manifest.items() if name not in ("epoch", "data")}
    write_json(attempt.output / "checkpoint" / MANIFEST, kept)
    return {**_statistics(checkpoint, work, corpus_tokens), **_snapshots(checkpoint, store)}


def _snapshots(checkpoint: Checkpoint, store: Store) -> dict[str, Any]:
    """As a training stage tells it: the snapshots of a corpus used up to this step, each from which step on."""
    rows = []
    for name, digest in checkpoint.inputs.items():
        first = int(name.removeprefix(MOVE)) if name.startswith(MOVE) else 0
        if name.startswith("tokens") and first < (checkpoint.step or 0):
            artifact = store.require(digest, name)
            if artifact.stage == SNAPSHOT:
                label = read_snapshot(store, artifact).label
                rows.append({"step": first, "snapshot": label, "fingerprint": artifact.fingerprint})
    return {"snapshots": sorted(rows, key=lambda row: int(row["step"]))} if rows else {}


def _statistics(checkpoint: Checkpoint, work: Folder, corpus_tokens: int) -> dict[str, Any]:
    training = Training.model_validate(checkpoint.config["training"])
    step = checkpoint.step
    assert step is not None
    rows = [row for row in read_rows(work, METRICS) if row["step"] <= step and not row.get("skipped")]
    last = [row["loss"] for row in rows[-_LAST_STEPS:]]
    tokens = BatchSizes.of(training).before(step) * training.window
    return {
        "steps": step,
        "tokens": tokens,
        "epochs": tokens / corpus_tokens,
        "final_loss": sum(last) / len(last) if last else None,
        "parameters": parameters(ModelConfig.model_validate(checkpoint.config["model"])).total,
    }


def _of_stage(store: Store, run: str, stage: str, digest: str) -> Iterator[Found]:
    """The stage's result, or the checkpoints on its way."""
    artifact = store.find_digest(digest)
    if artifact is not None:
        identity = {key: artifact.record[key] for key in ("version", "config", "inputs")}
        yield Found(
            kind="result",
            step=artifact.statistics["steps"],
            checkpoint=Checkpoint(run=run, stage=stage, **identity),
        )
        return
    work = store.folder(stage, digest) / "work"
    try:
        identity = work.read_json(IDENTITY)
    except FileNotFoundError:
        return
    for name in published(work):
        try:
            manifest = open_step(work, int(name.removeprefix("step-"))).manifest
        except CheckpointError:
            continue  # an old one, removed just now, or one whose manifest cannot be read
        checkpoint = Checkpoint(run=run, stage=stage, **identity, step=manifest["step"], content=_content(manifest))
        yield Found(kind="unfinished", step=manifest["step"], checkpoint=checkpoint)


def _kept(run: str, stage: str, digest: str, artifacts: Iterable[Artifact]) -> Iterator[Found]:
    for artifact in artifacts:
        config = dict(artifact.record["config"])
        of, step, content = (config.pop(key) for key in ("of", "step", "content"))
        if of["fingerprint"] == digest:
            checkpoint = Checkpoint(
                run=run,
                stage=stage,
                version=of["version"],
                config=config,
                inputs=artifact.record["inputs"],
                step=step,
                content=content,
            )
            yield Found(kind="kept", step=step, checkpoint=checkpoint)


def _content(manifest: Mapping[str, Any]) -> str:
    return fingerprint({"step": manifest["step"], "files": manifest["files"]})
