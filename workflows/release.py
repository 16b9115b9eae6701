"""A release of any checkpoint of any run, as a durable run of its own.

    [checkpoint ->] export-* -> evaluate-* -> [decontaminate ->] gates -> release

A checkpoint of an unfinished training stage is made an artifact first, since training may remove it; the result of a
stage is one already. What it was built from is found by following the inputs of artifacts back to the sources. Stages
that the training run has been through with the same configuration are reused.
"""

from __future__ import annotations

from typing import Any

from illada.artifacts import Artifact, Store, lineage
from illada.config import ConfigError, ModelConfig, Objective, ReleaseConfig
from illada.durable.engine import StageRunner
from illada.release.provenance import read_inventory
from illada.release.push import check_address
from workflows.checkpoints import CHECKPOINT_VERSION, STAGE, adopt_checkpoint, adopted_config, stage_identity
from workflows.finish import Measurement
from workflows.publish import (
    check_release,
    export_and_evaluate,
    gate_and_release,
    gates_identity,
    remote,
    report_contamination,
    trained_corpora,
)
from workflows.registry import Workflow

_SHORT = {"pretrain": "base"}  # as the stages of the whole chain are named


def check(config: ReleaseConfig) -> None:
    """Raise for artifacts that are gone, gates that cannot pass, and a place that nothing can be pushed to."""
    store = Store(config.placement.store)
    inputs = [_input(store, config, name) for name in config.checkpoint.inputs]
    sources = [artifact for artifact in lineage(store, inputs) if not artifact.record["inputs"]]
    licences = {inventory["source"]: inventory["licence"] for inventory in map(read_inventory, sources)}
    check_release(config.release, config.decontaminate, licences)
    if config.push is not None:
        check_address(config.push)


def stage_configs(config: ReleaseConfig) -> dict[str, dict[str, Any]]:
    """The configuration that each stage's identity is made of, in the order of the graph.

    To `decontaminate` the graph adds the content of the benchmarks, and to the evaluation the pretraining objective.
    """
    name = _SHORT.get(config.checkpoint.stage, config.checkpoint.stage)
    return {
        **({STAGE: adopted_config(config.checkpoint)} if config.checkpoint.step else {}),
        f"export-{name}": {"model": config.checkpoint.config["model"]},
        f"evaluate-{name}": {"evaluate": config.evaluate.identity(), "generate": config.generate.identity()},
        **({"decontaminate": config.decontaminate.searching()} if config.decontaminate.benchmarks else {}),
        "gates": gates_identity(config.release),
        "release": config.release.identity(),
    }


def release_checkpoint(run: StageRunner, config: ReleaseConfig) -> dict[str, Any]:
    """Run every stage that has no artifact yet. Returns {"release": fingerprint of the release artifact}."""
    chosen, place = config.checkpoint, config.placement
    pretraining, tokens = _pretraining(run.store, config)
    (tokenizer,) = (artifact for artifact in lineage(run.store, [tokens]) if artifact.stage == "tokenizer")
    trained = _trained(run, config)
    how = Measurement(
        evaluate=config.evaluate,
        generate=config.generate,
        objective=Objective.model_validate(pretraining["objective"]),
        window=pretraining["window"],
    )
    model = ModelConfig.model_validate(chosen.config["model"])
    name = _SHORT.get(chosen.stage, chosen.stage)
    exported, results = export_and_evaluate(run, name, model, how, trained, tokenizer, tokens)
    chain = lineage(run.store, [trained, results])
    corpora = trained_corpora(trained, chain)
    report = report_contamination(run, config.decontaminate, corpora, place.data)
    chain += [report] if report else []
    label = name if chosen.step is None else f"{chosen.stage} at step {chosen.step}"
    released = gate_and_release(run, config.release, chain, corpora, report, exported, {label: results})
    return {"release": released.fingerprint}


def _trained(run: StageRunner, config: ReleaseConfig) -> Artifact:
    """The stage's result, or the artifact made of its checkpoint."""
    chosen = config.checkpoint
    identity = stage_identity(chosen)
    if chosen.step is None:
        artifact = run.store.find(identity)
        if artifact is None:
            raise ConfigError(f"{identity.stage}/{identity.fingerprint[:12]} of run {chosen.run!r} is not in the store")
        return artifact
    corpus = _input(run.store, config, "tokens").statistics["train"]["tokens"]
    return run.stage(
        STAGE,
        CHECKPOINT_VERSION,
        adopted_config(chosen),
        chosen.inputs,
        remote(adopt_checkpoint, chosen, run.store, corpus),
    )


def _pretraining(store: Store, config: ReleaseConfig) -> tuple[dict[str, Any], Artifact]:
    """The training configuration and the tokens of the pretraining that the checkpoint goes back to."""
    training, inputs = config.checkpoint.config["training"], config.checkpoint.inputs
    while "initial" in inputs:
        record = store.require(inputs["initial"], "initial").record
        training, inputs = record["config"]["training"], record["inputs"]
    return training, store.require(inputs["tokens"], "tokens")


def _input(store: Store, config: ReleaseConfig, name: str) -> Artifact:
    return store.require(config.checkpoint.inputs[name], name)


WORKFLOW = Workflow(check=check, graph=release_checkpoint, stage_configs=stage_configs)
