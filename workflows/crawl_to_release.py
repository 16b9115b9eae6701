"""The whole chain, from raw sources to a released diffusion language model: the one place that knows every stage.

    acquire-* -> curate -> deduplicate -> tokenizer -> tokenize -> pretrain -> export-base -> evaluate-base
                                      \\-> pairs ------> sft -> export-sft -> evaluate-sft -> gates -> release
                                            \\-> decontaminate (where benchmarks are named) --/

Each line below is one durable step. A stage's identity is its configuration and the fingerprints of its inputs; where
it runs (`placement`) is passed beside it and changes nothing. Sources are external, so what depends on them depends on
the digest of their content, not on how they were asked for.
"""

from __future__ import annotations

from typing import Any

from illada.artifacts import Artifact
from illada.config import Training, TrainPlacement, WorkflowConfig
from illada.durable.engine import StageRunner
from illada.train.stage import TRAIN_VERSION, train
from pipelines.acquire import ACQUIRE_VERSION, acquire, check_sources, source_identity
from pipelines.conversation import pairs_identity
from pipelines.curate import CURATE_VERSION, curate
from pipelines.deduplicate import DEDUPLICATE_VERSION, deduplicate
from pipelines.pairs import PAIRS_VERSION, build_pairs
from pipelines.tokenize import TOKENIZE_VERSION, tokenize_documents
from pipelines.tokenizer import TOKENIZER_VERSION, build_tokenizer
from workflows.finish import Measurement
from workflows.publish import (
    check_release,
    export_and_evaluate,
    gate_and_release,
    gates_identity,
    remote,
    report_contamination,
)
from workflows.registry import Workflow


def check(config: WorkflowConfig) -> None:
    """Raise ConfigError for missing sources, conversations and benchmarks, gates that cannot pass, and the like."""
    check_sources(config.data)
    pairs_identity(config.data.pairs)
    check_release(
        config.release, config.data.decontaminate, {source.name: source.licence for source in config.data.sources}
    )


def stage_configs(config: WorkflowConfig) -> dict[str, dict[str, Any]]:
    """The configuration that each stage's identity is made of, in the order of the graph.

    To `acquire-*`, `decontaminate` and `pairs` the graph adds the content of the files that the configuration names.
    """
    data, model = config.data, config.model.identity()
    evaluated = _measurement(config).identity()
    return {
        **{f"acquire-{source.name}": source.identity() for source in data.sources},
        "curate": data.curate.identity(),
        "deduplicate": data.deduplicate.identity(),
        "tokenizer": data.tokenizer.identity(),
        "tokenize": data.tokenize.identity(),
        "pretrain": {"training": config.pretrain.identity(), "model": model},
        "export-base": {"model": model},
        "evaluate-base": evaluated,
        "pairs": data.pairs.identity(),
        **({"decontaminate": data.decontaminate.identity()} if data.decontaminate.benchmarks else {}),
        "sft": {"training": config.sft.identity(), "model": model},
        "export-sft": {"model": model},
        "evaluate-sft": evaluated,
        "gates": gates_identity(config.release),
        "release": config.release.identity(),
    }


def crawl_to_release(run: StageRunner, config: WorkflowConfig) -> dict[str, Any]:
    """Run every stage that has no artifact yet. Returns {"release": fingerprint of the release artifact}."""
    data, place, configs = config.data, config.placement, stage_configs(config)

    sources = {
        source.name: run.stage(
            f"acquire-{source.name}", ACQUIRE_VERSION, source_identity(source), {}, remote(acquire, source)
        )
        for source in data.sources
    }
    curated = run.stage(
        "curate",
        CURATE_VERSION,
        configs["curate"],
        {name: source.content for name, source in sources.items()},
        lambda attempt, progress: curate(data.curate, sources, attempt, place.data, progress),
        place.data.identity(),
    )
    documents = run.stage(
        "deduplicate",
        DEDUPLICATE_VERSION,
        configs["deduplicate"],
        {"curated": curated.fingerprint},
        lambda attempt, progress: deduplicate(data.deduplicate, curated, attempt, place.data, progress),
        place.data.identity(),
    )
    tokenizer = run.stage(
        "tokenizer",
        TOKENIZER_VERSION,
        configs["tokenizer"],
        {"documents": documents.fingerprint},
        remote(build_tokenizer, data.tokenizer, documents),
    )
    texts = {"documents": documents.fingerprint, "tokenizer": tokenizer.fingerprint}
    tokens = run.stage(
        "tokenize",
        TOKENIZE_VERSION,
        configs["tokenize"],
        texts,
        lambda attempt, progress: tokenize_documents(
            data.tokenize, documents, tokenizer, attempt, place.data, progress
        ),
        place.data.identity(),
    )

    base = _train(run, "pretrain", config, config.pretrain, tokens, None, place.pretrain)
    how = _measurement(config)
    base_model, base_results = export_and_evaluate(run, "base", config.model, how, base, tokenizer, tokens)

    pairs = run.stage(
        "pairs",
        PAIRS_VERSION,
        pairs_identity(data.pairs),
        texts,
        remote(build_pairs, data.pairs, documents, tokenizer),
    )
    corpora = {corpus.stage: corpus for corpus in (documents, pairs)}
    report = report_contamination(run, data.decontaminate, corpora, place.data)
    tuned = _train(run, "sft", config, config.sft, pairs, base, place.sft)
    tuned_model, tuned_results = export_and_evaluate(run, "sft", config.model, how, tuned, tokenizer, tokens)

    chain = [*sources.values(), curated, documents, tokenizer, tokens, base, base_model, base_results, pairs]
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
) -> Artifact:
    inputs = {"tokens": tokens.fingerprint}
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
            tokens.location / "train",
            initial.location / "checkpoint" if initial is not None else None,
            attempt,
            placement,
            progress,
        ),
        placement.identity(),
    )


WORKFLOW = Workflow(check=check, graph=crawl_to_release, stage_configs=stage_configs)
