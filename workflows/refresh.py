"""A refresh: what is new in the sources of a corpus becomes its next snapshot.

    discover -> acquire-* -> curate -> [quality-model -> quality ->] deduplicate -> [decontaminate-documents ->]
                                                                         |          tokenizer -> tokenize -> snapshot
                             signature index of the snapshot before (and of all before it)

`discover` looks at the world once for each passage through the graph and is kept, so that a resumed run works on the
files that the killed one found. Everything after it depends on the content of the new files and on the snapshot before,
and so comes out the same in any run. The last act, publishing the snapshot under its number, happens once for each
number: a refresh that comes second starts over from the snapshot that was faster.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from illada.artifacts import Attempt, Progress, Store
from illada.config import ConfigError, RefreshConfig
from illada.config.refresh import GrowingSource
from illada.data.corpora import numbers, publish
from illada.data.snapshots import SNAPSHOT_VERSION, STAGE, Snapshot, build_snapshot, read_snapshot
from illada.durable.cluster import run_remote
from illada.durable.engine import StageRunner
from illada.durable.stages import StaleHistory
from pipelines.benchmarks import decontaminate_identity
from pipelines.curate import CURATE_VERSION, curate
from pipelines.decontaminate_documents import CLEAN
from pipelines.deduplicate import DEDUPLICATE_VERSION, deduplicate
from pipelines.discover import DISCOVER_VERSION, DISCOVERY, discover
from pipelines.index import INDEX_VERSION, SignatureIndex, key_config, open_index
from pipelines.languages import check_languages
from pipelines.quality_examples import check_quality
from pipelines.sites import check_sites, sites_identity
from pipelines.sources.growing import Listed, unchanged
from pipelines.take import TAKE_VERSION, take, taking_identity
from pipelines.tokenize import TOKENIZE_VERSION, tokenize_documents
from pipelines.tokenizer import TOKENIZER_VERSION, build_tokenizer
from workflows.cleaning import clean_documents
from workflows.qualities import MODEL, SELECTION, quality_configs, select_documents
from workflows.registry import Workflow
from workflows.texts import curate_config

Build = Callable[[Attempt, Progress], Mapping[str, Any]]
_LISTED = ("name", "url", "bytes", "version")


def check(config: RefreshConfig) -> None:
    """Raise ConfigError for unknown languages, and for lists of sites, benchmarks and examples that cannot be read."""
    check_languages(config.curate.languages)
    decontaminate_identity(config.decontaminate)
    check_sites(config.curate)
    if config.quality is not None and not numbers(Store(config.placement.store), config.corpus):
        check_quality(config.quality, [source.name for source in config.sources])


def stage_configs(config: RefreshConfig) -> dict[str, dict[str, Any]]:
    """The configuration that each stage's identity is made of, in the order of the graph.

    The graph adds the passage to `discover`, the new files to `acquire-*`, the content of benchmarks to
    `decontaminate-documents`, and the snapshot's number to `snapshot`.
    """
    return {
        "discover": {"corpus": config.corpus, "sources": [source.identity() for source in config.sources]},
        **{f"acquire-{source.name}": source.taking() for source in config.sources},
        "curate": curate_config(config),
        **quality_configs(config.quality),
        "deduplicate": {**config.deduplicate.identity(), "index": INDEX_VERSION},
        **({CLEAN: config.decontaminate.identity()} if config.decontaminate.removes else {}),
        "tokenizer": config.tokenizer.identity(),
        "tokenize": config.tokenize.identity(),
        "snapshot": {"corpus": config.corpus, "fixed": config.fixed()},
    }


def refresh(run: StageRunner, config: RefreshConfig) -> dict[str, Any]:
    """Publish the next snapshot, or find that nothing is new.

    Returns {"corpus", "snapshot": number of the newest, "fingerprint", "new_files"}.
    """
    for attempt in itertools.count(1):
        discovery = run.stage(
            "discover",
            DISCOVER_VERSION,
            {**stage_configs(config)["discover"], "passage": run.passage, "attempt": attempt},
            {},
            _remote(discover, config, run.store),
        )
        found = json.loads(discovery.path(DISCOVERY).read_text(encoding="utf-8"))
        before = found["previous"]
        previous = None if before is None else read_snapshot(run.store, run.store.open(STAGE, before))
        files = sum(map(len, found["new"].values()))
        if not files:
            if previous is None:
                raise ConfigError(f"corpus {config.corpus!r}: its sources list no file; there is nothing to start from")
            return _result(previous, files)
        if run.stages[-1].how != "built":
            _require_unchanged(found["new"])
        snapshot = _next(run, config, previous, found["new"])
        if publish(snapshot, discovery):
            return _result(snapshot, files)
    raise AssertionError("the count has no end")


def _require_unchanged(new: Mapping[str, list[dict[str, Any]]]) -> None:
    """Raise StaleHistory, so that everything is listed anew, when an earlier driver's new files are others by now."""
    for name, files in new.items():
        for file in files:
            if not unchanged(Listed(**{key: file[key] for key in _LISTED})):
                raise StaleHistory(f"source {name}: {file['name']} is no longer what was listed")


def _next(
    run: StageRunner, config: RefreshConfig, previous: Snapshot | None, new: Mapping[str, list[dict[str, Any]]]
) -> Snapshot:
    """The stages from new files to an unpublished snapshot."""
    configs, place = stage_configs(config), config.placement.data
    acquired = {
        source.name: run.stage(
            f"acquire-{source.name}",
            TAKE_VERSION,
            taking_identity(source, new[source.name]),
            {},
            partial(_take, source, new[source.name], place),
            place.identity(),
        )
        for source in config.sources
        if new[source.name]
    }
    growing = previous is not None
    curated = run.stage(
        "curate",
        CURATE_VERSION,
        {**configs["curate"], **sites_identity(config.curate)},
        {name: source.content for name, source in acquired.items()},
        lambda attempt, progress: curate(
            config.curate, acquired, attempt, place, progress, privacy=config.privacy, may_be_empty=growing
        ),
        place.identity(),
    )
    better = {}
    if config.quality is not None:
        first = None if previous is None else (previous.built(MODEL), previous.built(SELECTION))
        better = select_documents(run, config.quality, curated, place, first)
    chosen = better.get(SELECTION, curated)
    indexed = {} if previous is None else {"index": previous.built("deduplicate").fingerprint}
    documents = run.stage(
        "deduplicate",
        DEDUPLICATE_VERSION,
        configs["deduplicate"],
        {"curated": chosen.fingerprint, **indexed},
        lambda attempt, progress: deduplicate(
            config.deduplicate, chosen, attempt, place, progress, _index(run, config, previous)
        ),
        place.identity(),
    )
    built = {"curate": curated, **better, "deduplicate": documents}
    if config.decontaminate.removes and any(name.startswith("documents/") for name in documents.names):
        documents = built[CLEAN] = clean_documents(run, config.decontaminate, documents, place, may_be_empty=growing)
    if previous is None:
        tokenizer = built["tokenizer"] = run.stage(
            "tokenizer",
            TOKENIZER_VERSION,
            configs["tokenizer"],
            {"documents": documents.fingerprint},
            _remote(build_tokenizer, config.tokenizer, documents),
        )
    else:
        tokenizer = built["tokenizer"] = previous.built("tokenizer")
    tokens = built["tokenize"] = run.stage(
        "tokenize",
        TOKENIZE_VERSION,
        configs["tokenize"],
        {"documents": documents.fingerprint, "tokenizer": tokenizer.fingerprint},
        lambda attempt, progress: tokenize_documents(
            config.tokenize, documents, tokenizer, attempt, place, progress, may_be_empty=growing
        ),
        place.identity(),
    )
    inputs = {"tokens": tokens.fingerprint, "documents": documents.fingerprint, "tokenizer": tokenizer.fingerprint}
    inputs |= {f"acquire-{name}": artifact.fingerprint for name, artifact in acquired.items()}
    if previous is not None:
        inputs["previous"] = previous.fingerprint
    artifact = run.stage(
        STAGE,
        SNAPSHOT_VERSION,
        configs["snapshot"],
        inputs,
        _remote(_snapshot, run.store, config, previous, acquired, built),
    )
    return read_snapshot(run.store, artifact)


def _take(source: GrowingSource, new: Any, place: Any, attempt: Attempt, progress: Progress) -> dict[str, Any]:
    return take(source, new, attempt, place, progress)


def _index(run: StageRunner, config: RefreshConfig, previous: Snapshot | None) -> SignatureIndex:
    if previous is None:
        return SignatureIndex(config=key_config(config.deduplicate))
    return open_index(previous.built("deduplicate"), run.store)


def _snapshot(store: Store, config: RefreshConfig, *arguments: Any, progress: Progress) -> dict[str, Any]:
    progress.start(1, "snapshot")
    statistics = build_snapshot(store, config.corpus, config.fixed(), *arguments)
    progress.update(1)
    return statistics


def _remote(function: Callable[..., Mapping[str, Any]], *arguments: Any) -> Build:
    """A build that is one Ray task."""
    return lambda attempt, progress: run_remote(partial(function, *arguments), attempt, progress=progress)


def _result(snapshot: Snapshot, files: int) -> dict[str, Any]:
    return {
        "corpus": snapshot.corpus,
        "snapshot": snapshot.number,
        "fingerprint": snapshot.fingerprint,
        "new_files": files,
    }


WORKFLOW = Workflow(check=check, graph=refresh, stage_configs=stage_configs, looks=("discover",))
