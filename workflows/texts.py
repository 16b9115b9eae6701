"""The first half of the chain: what a model is trained on, made by the run itself or taken from a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from illada.artifacts import Artifact, by_name
from illada.config import ConfigError, CorpusSnapshot, DataConfig, RefreshConfig, WorkflowConfig
from illada.data.corpora import open_snapshot
from illada.data.snapshots import STAGE, Snapshot
from illada.durable.engine import StageRunner
from pipelines.acquire import ACQUIRE_VERSION, acquire, source_identity
from pipelines.curate import CURATE_VERSION, curate
from pipelines.decontaminate_documents import CLEAN
from pipelines.deduplicate import DEDUPLICATE_VERSION, deduplicate
from pipelines.sites import sites_identity
from pipelines.substrings import STAGE as SUBSTRINGS
from pipelines.substrings import SUBSTRINGS_VERSION, substrings
from pipelines.tokenize import TOKENIZE_VERSION, tokenize_documents
from pipelines.tokenizer import TOKENIZER_VERSION, build_tokenizer
from workflows.cleaning import clean_documents
from workflows.publish import remote
from workflows.qualities import SELECTION, select_documents


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Tokens and what they came from.

    Attributes:
        chain: all artifacts below and everything they were built from.
        documents: what was tokenized, in one artifact for each time that some were added.
        tokens: the artifact of stage `tokenize`, or the snapshot the run begins with.
        moves: the steps at which pretraining goes on with a newer snapshot.
    """

    chain: Sequence[Artifact]
    documents: Sequence[Artifact]
    tokenizer: Artifact
    tokens: Artifact
    moves: Sequence[tuple[int, Snapshot]] = field(default=())

    @property
    def corpora(self) -> dict[str, Artifact]:
        """The documents by name."""
        return by_name(self.documents)

    @property
    def inputs(self) -> dict[str, str]:
        """How the documents and the tokenizer enter the identity of a stage that reads both."""
        tokenizer = {"tokenizer": self.tokenizer.fingerprint}
        if self.tokens.stage == STAGE:
            newest = self.moves[-1][1].artifact if self.moves else self.tokens
            return {"snapshot": newest.fingerprint, **tokenizer}
        (documents,) = self.documents
        return {"documents": documents.fingerprint, **tokenizer}


def curate_config(data: DataConfig | RefreshConfig) -> dict[str, Any]:
    """The configuration of stage `curate`."""
    return {**data.curate.identity(), "privacy": data.privacy and data.privacy.identity()}


def texts_from_sources(run: StageRunner, config: WorkflowConfig) -> Texts:
    """The stages from `acquire-*` to `tokenize`."""
    data, place = config.data, config.placement.data
    sources = {
        source.name: run.stage(
            f"acquire-{source.name}", ACQUIRE_VERSION, source_identity(source), {}, remote(acquire, source)
        )
        for source in data.sources
    }
    curated = run.stage(
        "curate",
        CURATE_VERSION,
        {**curate_config(data), **sites_identity(data.curate)},
        {name: source.content for name, source in sources.items()},
        lambda attempt, progress: curate(data.curate, sources, attempt, place, progress, privacy=data.privacy),
        place.identity(),
    )
    better = {} if data.quality is None else select_documents(run, data.quality, curated, place, None)
    chosen = better.get(SELECTION, curated)
    deduplicated = run.stage(
        "deduplicate",
        DEDUPLICATE_VERSION,
        data.deduplicate.identity(),
        {"curated": chosen.fingerprint},
        lambda attempt, progress: deduplicate(data.deduplicate, chosen, attempt, place, progress),
        place.identity(),
    )
    documents, clean = deduplicated, dict[str, Artifact]()
    if (how := data.substrings) is not None:
        documents = clean[SUBSTRINGS] = run.stage(
            SUBSTRINGS,
            SUBSTRINGS_VERSION,
            how.identity(),
            {"documents": deduplicated.fingerprint},
            lambda attempt, progress: substrings(how, deduplicated, attempt, place, progress),
            place.identity(),
        )
    if data.decontaminate.removes:
        documents = clean[CLEAN] = clean_documents(run, data.decontaminate, documents, place)
    tokenizer = run.stage(
        "tokenizer",
        TOKENIZER_VERSION,
        data.tokenizer.identity(),
        {"documents": documents.fingerprint},
        remote(build_tokenizer, data.tokenizer, documents),
    )
    tokens = run.stage(
        "tokenize",
        TOKENIZE_VERSION,
        data.tokenize.identity(),
        {"documents": documents.fingerprint, "tokenizer": tokenizer.fingerprint},
        lambda attempt, progress: tokenize_documents(data.tokenize, documents, tokenizer, attempt, place, progress),
        place.identity(),
    )
    chain = [*sources.values(), curated, *better.values(), deduplicated, *clean.values(), tokenizer, tokens]
    return Texts(chain=chain, documents=[documents], tokenizer=tokenizer, tokens=tokens)


def texts_from_corpus(run: StageRunner, config: WorkflowConfig, corpus: CorpusSnapshot) -> Texts:
    """The snapshots that the configuration names; nothing is built.

    Raises:
        ArtifactError: a snapshot, or something it was made from, is not in the store.
        ConfigError: the snapshots do not follow one another, or do not fit the configuration.
    """
    first = open_snapshot(run.store, corpus.name, corpus.snapshot)
    moves = [(move.step, open_snapshot(run.store, corpus.name, move.snapshot)) for move in corpus.moves]
    snapshots = [first, *(snapshot for _, snapshot in moves)]
    newest = snapshots[-1].history()
    for snapshot in snapshots:
        if snapshot.fingerprint not in {known.fingerprint for known in newest}:
            raise ConfigError(f"data.corpus: {snapshots[-1].label} was not made from {snapshot.label}")
        if snapshot.value["tokenizer"] != first.value["tokenizer"]:
            raise ConfigError(f"data.corpus: {snapshot.label} has another tokenizer than {first.label}")
    _check_tokenizer(config, first)
    documents = [snapshot.documents() for snapshot in newest]
    return Texts(
        chain=[artifact for snapshot in newest for artifact in snapshot.artifacts()],
        documents=[artifact for artifact in documents if any(name.startswith("documents/") for name in artifact.names)],
        tokenizer=first.built("tokenizer"),
        tokens=first.artifact,
        moves=moves,
    )


def _check_tokenizer(config: WorkflowConfig, first: Snapshot) -> None:
    if config.model.vocab_size != first.value["vocab_size"]:
        raise ConfigError(
            f"model.vocab_size and data.tokenizer.vocab_size {config.model.vocab_size} must be that of the tokenizer "
            f"of {first.label}, {first.value['vocab_size']}"
        )
    pairs, tokenize = config.data.pairs, first.value["fixed"]["tokenize"]
    if not pairs.files and (pairs.seed != tokenize["seed"] or pairs.held_out < tokenize["held_out"]):
        raise ConfigError(
            f"data.pairs (seed {pairs.seed}, held_out {pairs.held_out}) derived from the documents of {first.label} "
            f"need its seed {tokenize['seed']} and at least its held_out {tokenize['held_out']}: tuning must not see "
            "held-out documents"
        )
