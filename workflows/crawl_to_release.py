"""The whole chain, from raw sources to a released diffusion language model: the one place that knows every stage.

    acquire-* -> curate -> deduplicate -> tokenizer -> tokenize -> pretrain -> export-base -> evaluate-base
                                      \\-> pairs -----------------> sft -> export-sft -> evaluate-sft -> release

Each line below is one durable step. A stage's identity is its configuration and the fingerprints of its inputs; where
it runs (`placement`) is passed beside it and changes nothing. Sources are external, so what depends on them depends on
the digest of their content, not on how they were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import Training, TrainPlacement, WorkflowConfig
from illada.durable.cluster import run_remote
from illada.durable.engine import StageRunner
from illada.train.stage import TRAIN_VERSION, train
from pipelines.acquire import ACQUIRE_VERSION, acquire, check_sources, source_identity
from pipelines.conversation import pairs_identity
from pipelines.curate import CURATE_VERSION, curate
from pipelines.deduplicate import DEDUPLICATE_VERSION, deduplicate
from pipelines.pairs import PAIRS_VERSION, build_pairs
from pipelines.tokenize import TOKENIZE_VERSION, tokenize_documents
from pipelines.tokenizer import TOKENIZER_VERSION, build_tokenizer
from workflows.finish import EVALUATE_VERSION, EXPORT_VERSION, RELEASE_VERSION, evaluate, export, release
from workflows.registry import Workflow

Build = Callable[[Attempt, Progress], Mapping[str, Any]]


def check(config: WorkflowConfig) -> None:
    """Raise ConfigError for missing sources and conversations, unknown languages, and the like."""
    check_sources(config.data)
    pairs_identity(config.data.pairs)


def stage_configs(config: WorkflowConfig) -> dict[str, dict[str, Any]]:
    """The configuration that each stage's identity is made of, in the order of the graph.

    To `acquire-*` and `pairs` the graph adds the content of the files that the configuration names.
    """
    data, model = config.data, config.model.identity()
    evaluated = {
        "evaluate": config.evaluate.identity(),
        "generate": config.generate.identity(),
        "objective": config.pretrain.objective.identity(),
        "window": config.pretrain.window,
    }
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
        "sft": {"training": config.sft.identity(), "model": model},
        "export-sft": {"model": model},
        "evaluate-sft": evaluated,
        "release": config.release.identity(),
    }


def crawl_to_release(run: StageRunner, config: WorkflowConfig) -> dict[str, Any]:
    """Run every stage that has no artifact yet. Returns {"release": fingerprint of the release artifact}."""
    data, place, configs = config.data, config.placement, stage_configs(config)

    sources = {
        source.name: run.stage(
            f"acquire-{source.name}", ACQUIRE_VERSION, source_identity(source), {}, _remote(acquire, source)
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
        _remote(build_tokenizer, data.tokenizer, documents),
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
    base_model, base_results = _export_and_evaluate(run, "base", config, base, tokenizer, tokens)

    pairs = run.stage(
        "pairs",
        PAIRS_VERSION,
        pairs_identity(data.pairs),
        texts,
        _remote(build_pairs, data.pairs, documents, tokenizer),
    )
    tuned = _train(run, "sft", config, config.sft, pairs, base, place.sft)
    tuned_model, tuned_results = _export_and_evaluate(run, "sft", config, tuned, tokenizer, tokens)

    chain = [*sources.values(), curated, documents, tokenizer, tokens, base, base_model, base_results]
    chain += [pairs, tuned, tuned_model, tuned_results]
    released = run.stage(
        "release",
        RELEASE_VERSION,
        configs["release"],
        {f"{artifact.stage}": artifact.fingerprint for artifact in chain},
        _remote(release, tuned_model, chain, {"base": base_results, "sft": tuned_results}, config.release),
    )
    return {"release": released.fingerprint}


def _remote(function: Callable[..., Mapping[str, Any]], *arguments: Any) -> Build:
    """A build that is one Ray task: for stages which use one process and would otherwise load the driver's node."""
    return lambda attempt, progress: run_remote(partial(function, *arguments), attempt, progress=progress)


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
            tokens.local("train"),
            initial.local("checkpoint") if initial is not None else None,
            attempt,
            placement,
            progress,
        ),
        placement.identity(),
    )


def _export_and_evaluate(
    run: StageRunner, name: str, config: WorkflowConfig, trained: Artifact, tokenizer: Artifact, tokens: Artifact
) -> tuple[Artifact, Artifact]:
    configs = stage_configs(config)
    model = run.stage(
        f"export-{name}",
        EXPORT_VERSION,
        configs[f"export-{name}"],
        {"trained": trained.fingerprint, "tokenizer": tokenizer.fingerprint},
        _remote(export, trained, tokenizer, config.model),
    )
    results = run.stage(
        f"evaluate-{name}",
        EVALUATE_VERSION,
        configs[f"evaluate-{name}"],
        {"model": model.fingerprint, "tokens": tokens.fingerprint},
        _remote(evaluate, model, tokens, config),
    )
    return model, results


WORKFLOW = Workflow(check=check, graph=crawl_to_release, stage_configs=stage_configs)
