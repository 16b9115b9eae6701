"""The whole chain, from raw sources to a released diffusion language model: the one place that knows every stage.

    acquire-* -> curate -> [quality-model -> quality ->] deduplicate -> [substrings ->]
     [decontaminate-documents ->] tokenizer
    tokenizer -> tokenize -> pretrain -> export-base -> evaluate-base
     \\-> pairs ------> sft -> export-sft -> evaluate-sft -> gates -> release
           \\-> decontaminate (where benchmarks are named) --/

A run may instead begin with a snapshot of a corpus that refreshes make (`data.corpus`), and pretraining may move to
newer ones. Each line above is one durable step. A stage's identity is its configuration and the fingerprints of its
inputs; where it runs (`placement`) is passed beside it and changes nothing. Sources are external, so what depends on
them depends on the digest of their content, not on how they were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from illada.artifacts import Artifact, Folder, StageIdentity
from illada.config import Training, TrainPlacement, WorkflowConfig
from illada.data.snapshots import Snapshot, shards_of
from illada.durable.engine import StageRunner
from illada.train.stage import TRAIN_VERSION, train
from pipelines.acquire import check_sources
from pipelines.benchmarks import removal_identity
from pipelines.conversation import pairs_identity
from pipelines.decontaminate_documents import CLEAN
from pipelines.pairs import PAIRS_VERSION, build_pairs
from pipelines.quality_examples import check_quality
from pipelines.sites import check_sites
from pipelines.substrings import STAGE as SUBSTRINGS
from workflows.checkpoints import MOVE
from workflows.finish import Measurement
from workflows.publish import (
    check_release,
    export_and_evaluate,
    gate_and_release,
    gates_identity,
    remote,
    report_contamination,
)
from workflows.qualities import quality_configs
from workflows.registry import Workflow
from workflows.texts import curate_config, texts_from_corpus, texts_from_sources


def check(config: WorkflowConfig) -> None:
    """Raise ConfigError for missing sources, conversations and benchmarks, gates that cannot pass, and the like."""
    check_sources(config.data)
    check_sites(config.data.curate)
    if config.data.quality is not None:
        check_quality(config.data.quality, [source.name for source in config.data.sources])
    pairs_identity(config.data.pairs)
    check_release(
        config.release, config.data.decontaminate, {source.name: source.licence for source in config.data.sources}
    )


def stage_configs(config: WorkflowConfig) -> dict[str, dict[str, Any]]:
    """The configuration that each stage's identity is made of, in the order of the graph.

    To `acquire-*`, `curate`, `quality-model`, `decontaminate` and `pairs` the graph adds the content of files.
    """
    data, model = config.data, config.model.identity()
    evaluated = _measurement(config).identity()
    pretrain = {"training": config.pretrain.identity(), "model": model}
    if data.mixture is not None:
        pretrain["mixture"] = data.mixture.identity()
    if data.corpus is None:
        made = {
            **{f"acquire-{source.name}": source.identity() for source in data.sources},
            "curate": curate_config(data),
            **quality_configs(data.quality),
            "deduplicate": data.deduplicate.identity(),
            **({SUBSTRINGS: data.substrings.identity()} if data.substrings else {}),
            **({CLEAN: data.decontaminate.identity()} if data.decontaminate.removes else {}),
            "tokenizer": data.tokenizer.identity(),
            "tokenize": data.tokenize.identity(),
        }
    else:
        made, pretrain = {}, {**pretrain, "corpus": data.corpus.identity()}
    return {
        **made,
        "pretrain": pretrain,
        "export-base": {"model": model},
        "evaluate-base": evaluated,
        "pairs": {
            **data.pairs.identity(),
            **({"decontaminate": data.decontaminate.identity()} if data.decontaminate.removes else {}),
        },
        **({"decontaminate": data.decontaminate.searching()} if data.decontaminate.benchmarks else {}),
        "sft": {"training": config.sft.identity(), "model": model},
        "export-sft": {"model": model},
        "evaluate-sft": evaluated,
        "gates": gates_identity(config.release),
        "release": config.release.identity(),
    }


def crawl_to_release(run: StageRunner, config: WorkflowConfig) -> dict[str, Any]:
    """Run every stage that has no artifact yet. Returns {"release": fingerprint of the release artifact}."""
    data, place = config.data, config.placement

    texts = texts_from_corpus(run, config, data.corpus) if data.corpus else texts_from_sources(run, config)
    tokenizer, tokens = texts.tokenizer, texts.tokens

    base = _train(run, "pretrain", config, config.pretrain, tokens, None, place.pretrain, texts.moves)
    how = _measurement(config)
    base_model, base_results = export_and_evaluate(run, "base", config.model, how, base, tokenizer, tokens)

    unseen = {"decontaminate": removal_identity(data.decontaminate)} if data.decontaminate.removes else {}
    pairs = run.stage(
        "pairs",
        PAIRS_VERSION,
        {**pairs_identity(data.pairs), **unseen},
        texts.inputs,
        remote(partial(build_pairs, unseen=data.decontaminate), data.pairs, texts.documents, tokenizer),
    )
    corpora = {**texts.corpora, pairs.stage: pairs}
    report = report_contamination(run, data.decontaminate, corpora, place.data)
    tuned = _train(run, "sft", config, config.sft, pairs, base, place.sft)
    tuned_model, tuned_results = export_and_evaluate(run, "sft", config.model, how, tuned, tokenizer, tokens)

    chain = [*texts.chain, base, base_model, base_results, pairs]
    chain += [report] if report else []
    chain += [tuned, tuned_model, tuned_results]
    results = {"base": base_results, "sft": tuned_results}
    released = gate_and_release(run, config.release, chain, corpora, report, tuned_model, results)
    return {"release": released.fingerprint}


def _measurement(config: WorkflowConfig) -> Measurement:
    return Measurement(
        evaluate=config.evaluate,
        generate=config.generate,
        objective=config.pretrain.objective,
        window=config.pretrain.window,
    )


def _train(
    run: StageRunner,
    name: str,
    config: WorkflowConfig,
    training: Training,
    tokens: Artifact,
    initial: Artifact | None,
    placement: TrainPlacement,
    moves: Sequence[tuple[int, Snapshot]] = (),
) -> Artifact:
    inputs = {"tokens": tokens.fingerprint}
    inputs |= {_input_from(step): snapshot.fingerprint for step, snapshot in moves}
    if initial is not None:
        inputs["initial"] = initial.fingerprint
    return run.stage(
        name,
        TRAIN_VERSION,
        stage_configs(config)[name],
        inputs,
        lambda attempt, progress: train(
            training,
            config.model,
            shards_of(tokens, "train"),
            initial.location / "checkpoint" if initial is not None else None,
            attempt,
            placement,
            progress,
            [(step, snapshot.part("train")) for step, snapshot in moves],
            _earlier(run, config, inputs) if moves else (),
            config.data.mixture if initial is None else None,
        ),
        placement.identity(),
    )


def _earlier(run: StageRunner, config: WorkflowConfig, inputs: Mapping[str, str]) -> list[Folder]:
    """Work folders of `pretrain` without its last move, without its last two, ...: see `illada.train.inherit`."""
    corpus, folders = config.data.corpus, []
    moves = corpus.moves if corpus else ()
    for count in range(len(moves)):
        assert corpus is not None
        shorter = corpus.model_copy(update={"moves": moves[:count]})
        later = {_input_from(move.step) for move in moves[count:]}
        identity = StageIdentity(
            stage="pretrain",
            version=TRAIN_VERSION,
            config={**stage_configs(config)["pretrain"], "corpus": shorter.identity()},
            inputs={name: digest for name, digest in inputs.items() if name not in later},
        )
        folders.append(run.store.folder(identity.stage, identity.fingerprint) / "work")
    return folders


def _input_from(step: int) -> str:
    """Name of the input that `pretrain` uses from a step on."""
    return f"{MOVE}{step}"


WORKFLOW = Workflow(check=check, graph=crawl_to_release, stage_configs=stage_configs)
