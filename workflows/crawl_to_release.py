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
from pipelines.acquire import ACQUIRE_VERSION, acquire, source_identity
from pipelines.conversation import pairs_identity
from pipelines.curate import CURATE_VERSION, curate
from pipelines.deduplicate import DEDUPLICATE_VERSION, deduplicate
from pipelines.pairs import PAIRS_VERSION, build_pairs
from pipelines.tokenize import TOKENIZE_VERSION, tokenize_documents
from pipelines.tokenizer import TOKENIZER_VERSION, build_tokenizer
from workflows.finish import EVALUATE_VERSION, EXPORT_VERSION, RELEASE_VERSION, evaluate, export, release

Build = Callable[[Attempt, Progress], Mapping[str, Any]]


def crawl_to_release(run: StageRunner, config: WorkflowConfig) -> dict[str, Any]:
    """Run every stage that has no artifact yet. Returns {"release": fingerprint of the release artifact}."""
    data, place = config.data, config.placement

    sources = {
        source.name: run.stage(
            f"acquire-{source.name}", ACQUIRE_VERSION, source_identity(source), {}, _remote(acquire, source)
        )
        for source in data.sources
    }
    curated = run.stage(
        "curate",
        CURATE_VERSION,
        data.curate.identity(),
        {name: source.content for name, source in sources.items()},
        lambda attempt, progress: curate(data.curate, sources, attempt, place.data, progress),
        place.data.identity(),
    )
    documents = run.stage(
        "deduplicate",
        DEDUPLICATE_VERSION,
        data.deduplicate.identity(),
        {"curated": curated.fingerprint},
        lambda attempt, progress: deduplicate(data.deduplicate, curated, attempt, place.data, progress),
        place.data.identity(),
    )
    tokenizer = run.stage(
        "tokenizer",
        TOKENIZER_VERSION,
        data.tokenizer.identity(),
        {"documents": documents.fingerprint},
        _remote(build_tokenizer, data.tokenizer, documents),
    )
    texts = {"documents": documents.fingerprint, "tokenizer": tokenizer.fingerprint}
    tokens = run.stage(
        "tokenize",
        TOKENIZE_VERSION,
        data.tokenize.identity(),
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
        config.release.identity(),
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
        {"training": training.identity(), "model": config.model.identity()},
        inputs,
        lambda attempt, progress: train(
            training,
            config.model,
            tokens.folder / "train",
            initial.folder / "checkpoint" if initial is not None else None,
            attempt,
            placement,
            progress,
        ),
        placement.identity(),
    )


def _export_and_evaluate(
    run: StageRunner, name: str, config: WorkflowConfig, trained: Artifact, tokenizer: Artifact, tokens: Artifact
) -> tuple[Artifact, Artifact]:
    model = run.stage(
        f"export-{name}",
        EXPORT_VERSION,
        {"model": config.model.identity()},
        {"trained": trained.fingerprint, "tokenizer": tokenizer.fingerprint},
        _remote(export, trained, tokenizer, config.model),
    )
    results = run.stage(
        f"evaluate-{name}",
        EVALUATE_VERSION,
        {
            "evaluate": config.evaluate.identity(),
            "generate": config.generate.identity(),
            "objective": config.pretrain.objective.identity(),
            "window": config.pretrain.window,
        },
        {"model": model.fingerprint, "tokens": tokens.fingerprint},
        _remote(evaluate, model, tokens, config),
    )
    return model, results
