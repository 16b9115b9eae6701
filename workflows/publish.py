"""From trained weights to a release, as every graph does it: export, evaluation, report, gates, release."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress, by_name
from illada.config import ConfigError, DataPlacement, Decontaminate, ModelConfig, Release
from illada.durable.cluster import run_remote
from illada.durable.engine import StageRunner
from illada.release.gates import failures, judge_decontamination, judge_evaluation, judge_licences, settle
from pipelines.benchmarks import decontaminate_identity
from pipelines.decontaminate import DECONTAMINATE_VERSION, decontaminate
from workflows.finish import (
    EVALUATE_VERSION,
    EXPORT_VERSION,
    GATES_VERSION,
    RELEASE_VERSION,
    Measurement,
    check_gates,
    evaluate,
    export,
    release,
)

Build = Callable[[Attempt, Progress], Mapping[str, Any]]


def remote(function: Callable[..., Mapping[str, Any]], *arguments: Any) -> Build:
    """A build that is one Ray task: for stages which use one process and would otherwise load the driver's node."""
    return lambda attempt, progress: run_remote(partial(function, *arguments), attempt, progress=progress)


def check_release(config: Release, decontamination: Decontaminate, licences: Mapping[str, str]) -> None:
    """Raise ConfigError for missing benchmarks, and for gates that cannot pass whatever the run makes.

    Args:
        licences: the declared licence of each source, where the configuration declares them.
    """
    decontaminate_identity(decontamination)
    sources = [{"source": name, "licence": licence} for name, licence in licences.items()]
    outcomes = [judge_licences(config.gates, sources)] if sources else []
    if not decontamination.benchmarks:
        outcomes.append(judge_decontamination(config.gates, {"report": None, "trained_on": {}}))
    if not config.gates.evaluation:
        outcomes.append(judge_evaluation(config.gates, {}))
    if failed := failures(settle(outcomes, config.waivers)):
        raise ConfigError(f"the release at the end of this run would be refused: {failed}")


def gates_identity(config: Release) -> dict[str, Any]:
    """What the outcomes of the gates depend on besides the chain."""
    return {"gates": config.gates.identity(), "waivers": config.waivers}


def export_and_evaluate(
    run: StageRunner,
    name: str,
    model: ModelConfig,
    how: Measurement,
    trained: Artifact,
    tokenizer: Artifact,
    tokens: Artifact,
) -> tuple[Artifact, Artifact]:
    """The stages `export-<name>` and `evaluate-<name>`."""
    exported = run.stage(
        f"export-{name}",
        EXPORT_VERSION,
        {"model": model.identity()},
        {"trained": trained.fingerprint, "tokenizer": tokenizer.fingerprint},
        remote(export, trained, tokenizer, model),
    )
    results = run.stage(
        f"evaluate-{name}",
        EVALUATE_VERSION,
        how.identity(),
        {"model": exported.fingerprint, "tokens": tokens.fingerprint},
        remote(evaluate, exported, tokens, how),
    )
    return exported, results


def report_contamination(
    run: StageRunner, config: Decontaminate, corpora: Mapping[str, Artifact], placement: DataPlacement
) -> Artifact | None:
    """The stage `decontaminate`; None without benchmarks."""
    if not config.benchmarks:
        return None
    return run.stage(
        "decontaminate",
        DECONTAMINATE_VERSION,
        decontaminate_identity(config),
        {name: corpus.fingerprint for name, corpus in corpora.items()},
        lambda attempt, progress: decontaminate(config, corpora, attempt, placement, progress),
        placement.identity(),
    )


def gate_and_release(
    run: StageRunner,
    config: Release,
    chain: Sequence[Artifact],
    corpora: Mapping[str, Artifact],
    report: Artifact | None,
    exported: Artifact,
    evaluations: Mapping[str, Artifact],
) -> Artifact:
    """The stages `gates` and `release`.

    Args:
        chain: every artifact `exported` was built from and itself, the evaluations, and the report if there is one.
        corpora: what the model was trained on, by name.
        evaluations: by what was evaluated, the released model last.
    """
    *_, evaluation = evaluations.values()
    inputs = {name: artifact.fingerprint for name, artifact in by_name(chain).items()}
    gates = run.stage(
        "gates",
        GATES_VERSION,
        gates_identity(config),
        inputs,
        remote(check_gates, chain, corpora, evaluation, report, config),
    )
    # By content: the release depends on what the gates found, which their inputs alone do not tell.
    return run.stage(
        "release",
        RELEASE_VERSION,
        config.identity(),
        {**inputs, "gates": gates.content},
        remote(release, exported, [*chain, gates], gates, evaluations, config),
    )


def trained_corpora(trained: Artifact, chain: Sequence[Artifact]) -> dict[str, Artifact]:
    """The documents and conversations that `trained`, and what it was tuned from, were trained on."""
    known = {artifact.fingerprint: artifact for artifact in chain}
    found: dict[str, Artifact] = {}

    def gather(artifact: Artifact) -> None:
        if "pairs.parquet" in artifact.names or any(name.startswith("documents/") for name in artifact.names):
            found[artifact.fingerprint] = artifact
            return
        for digest in artifact.record["inputs"].values():
            if digest in known:
                gather(known[digest])

    training: Artifact | None = trained
    while training is not None:
        inputs = training.record["inputs"]
        for name, digest in inputs.items():
            if name.startswith("tokens"):  # of a run on snapshots, also those it moved to
                gather(known[digest])
        training = known.get(inputs.get("initial", ""))
    return by_name(list(found.values()))
