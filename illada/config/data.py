"""What goes in and how text becomes tokens: sources, curation, deduplication, tokenizer, shards, instruction pairs."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from illada.config.base import Config
from illada.config.filters import C4, FineWeb, GopherQuality, GopherRepetition
from illada.config.mixture import Mixture
from illada.config.names import SourceName
from illada.config.privacy import Privacy
from illada.config.quality import Quality
from illada.config.sources import Source
from illada.config.substrings import Substrings

CorpusName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]  # a folder of the store


class Move(Config):
    """From `step` on (steps done before it), pretraining goes on with another snapshot."""

    step: int = Field(gt=0)
    snapshot: int = Field(gt=0)


class CorpusSnapshot(Config):
    """A snapshot that `refresh` published, and the newer ones that pretraining moves to at declared steps."""

    name: CorpusName
    snapshot: int = Field(gt=0)
    moves: tuple[Move, ...] = ()

    @model_validator(mode="after")
    def _forward(self) -> Self:
        for before, after in itertools.pairwise((Move.model_construct(step=0, snapshot=self.snapshot), *self.moves)):
            if after.step <= before.step or after.snapshot <= before.snapshot:
                raise ValueError(
                    f"moves go forward: step {after.step} to snapshot {after.snapshot} does not follow step "
                    f"{before.step} with snapshot {before.snapshot}"
                )
        return self


class Curate(Config):
    """Extraction and quality filters (Gopher, arXiv 2112.11446; C4, arXiv 1910.10683; FineWeb, arXiv 2406.17557).

    A document's language is that of its first `language_characters` (null: of all of it). A filter that is null or
    false is left out.
    Documents of the sites listed in the files `opt_outs` and `block_lists` are dropped. `max_quarantined` is the share
    of input units (files, mostly; rounded up) that may be left out because they kill every worker that tries them.
    """

    extraction: Literal["exact", "fast"] = "fast"
    languages: tuple[str, ...] = ("en", "fr", "de", "es", "it", "pt", "nl", "ru")
    language_threshold: float = Field(default=0.65, ge=0, le=1)
    language_characters: int | None = Field(default=3000, gt=0)
    url_filter: bool = True
    block_lists: tuple[str, ...] = ()
    opt_outs: tuple[str, ...] = ()
    gopher_repetition: GopherRepetition | None = GopherRepetition()
    gopher_quality: GopherQuality | None = GopherQuality()
    c4: C4 | None = C4()
    fineweb: FineWeb | None = FineWeb()
    rejected_sample: float = Field(default=0.05, ge=0, le=1)
    max_quarantined: float = Field(default=0.001, ge=0, le=1)

    @field_validator("gopher_repetition", "gopher_quality", "c4", "fineweb", mode="before")
    @classmethod
    def _false_is_off(cls, value: Any) -> Any:
        return None if value is False else value


class Deduplicate(Config):
    """Exact and MinHash-LSH near-duplicate removal (bands x rows over word shingles), and of one address if `urls`.

    `keep` says which document of a group stays: the first, the one with the oldest date (none counts as newest), the
    longest text, or the best quality; between equals the first.
    """

    ngram: int = Field(default=5, gt=0)
    bands: int = Field(default=14, gt=0)
    rows: int = Field(default=8, gt=0)
    seed: int = 1
    keep: Literal["first", "oldest", "longest", "quality"] = "first"
    urls: bool = False

    def check_quality(self, quality: Quality | None) -> None:
        """Raise ValueError when documents are to be chosen by a score that none has."""
        if self.keep == "quality" and quality is None:
            raise ValueError(
                "deduplicate.keep quality: documents have no score without a quality classifier: configure `quality`, "
                "or keep the first, oldest or longest"
            )

    def fixed(self) -> dict[str, Any]:
        """What must stay as it is while a corpus grows: what the keys of its index are made of, and which it has."""
        urls = {"urls": True} if self.urls else {}
        return {**self.model_dump(mode="json", include={"ngram", "bands", "rows", "seed"}), **urls}


class Benchmark(Config):
    """Evaluation data that training should not have seen: JSON lines or JSON (plain, .gz, .zst) or Parquet, by glob.

    `columns` hold the texts of an item: strings, or lists of strings.
    """

    name: SourceName
    paths: tuple[str, ...] = Field(min_length=1)
    columns: tuple[str, ...] = Field(min_length=1)


class Decontaminate(Config):
    """A report of the documents that share a run of `ngram` words with a benchmark (13: GPT-3, arXiv 2005.14165).

    Words are compared without regard to case and punctuation. With no benchmarks there is no report. `action` is what
    happens before tokenization: nothing, the sentences that hold such a run are cut out of their document, or the
    document is dropped. One that would lose more than `max_cuts` spans, or more than `max_cut_share` of its characters,
    is dropped as well. Conversations that hold such a run are dropped by either action.
    """

    ngram: int = Field(default=13, ge=4)
    action: Literal["report", "cut", "drop"] = "report"
    max_cuts: int = Field(default=10, ge=0)
    max_cut_share: float = Field(default=0.5, ge=0, le=1)
    benchmarks: tuple[Benchmark, ...] = ()

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) != len(names):
            raise ValueError(f"benchmark names must differ, got {names}")
        if self.action != "report" and not names:
            raise ValueError(f"action {self.action} needs benchmarks: name some, or say action: report")
        return self

    def searching(self) -> dict[str, Any]:
        """What is looked for: all that the report depends on."""
        return self.model_dump(mode="json", include={"ngram", "benchmarks"})

    @property
    def removes(self) -> bool:
        """Whether something is removed from what a model is trained on."""
        return self.action != "report"


class Tokenizer(Config):
    """Byte-level BPE. `sample_bytes` of documents, chosen by hash, train it."""

    vocab_size: int = Field(gt=256 + 8)
    sample_bytes: int = Field(default=20_000_000, gt=0)
    min_frequency: int = Field(default=2, ge=1)


class Tokenize(Config):
    """Arrow token shards; `held_out` is the fraction of documents (by hash of their id) kept for evaluation."""

    shard_tokens: int = Field(default=2**28, gt=0)
    held_out: float = Field(default=0.01, gt=0, lt=0.5)
    seed: int = 0


class Pairs(Config):
    """Instruction data: conversations from files, or made from the curated documents themselves.

    `files` are JSON-lines of {"messages": [{"role", "content"}, ...]} or {"prompt", "response"}; with none, pairs are
    derived (docstring -> signature, title -> section).
    """

    files: tuple[str, ...] = ()
    max_pairs: int = Field(default=100_000, gt=0)
    max_characters: int = Field(default=2_000, gt=0)
    held_out: float = Field(default=0.02, gt=0, lt=0.5)
    seed: int = 0


class DataConfig(Config):
    """Everything from sources to shards, or a `corpus` that refreshes make.

    How a corpus is curated, deduplicated and tokenized is its refreshes' matter: of a run those sections have no part.
    """

    corpus: CorpusSnapshot | None = None
    sources: tuple[Source, ...] = ()
    curate: Curate = Curate()
    privacy: Privacy | None = Privacy()
    quality: Quality | None = None
    deduplicate: Deduplicate = Deduplicate()
    substrings: Substrings | None = None
    decontaminate: Decontaminate = Decontaminate()
    tokenizer: Tokenizer
    tokenize: Tokenize = Tokenize()
    mixture: Mixture | None = None
    pairs: Pairs = Pairs()

    @field_validator("sources")
    @classmethod
    def _one_origin(cls, sources: tuple[Source, ...], info: ValidationInfo) -> tuple[Source, ...]:
        if info.data.get("corpus") is not None and sources:
            raise ValueError("a run takes its text from data.corpus or from data.sources, not from both")
        if not sources and info.data.get("corpus") is None:
            raise ValueError("name at least one source, or a data.corpus")
        return sources

    @model_serializer(mode="wrap")
    def _what_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run from sources stays the run it was before there were corpora; one from a corpus does not make it.

        And one without a mixture stays the run it was before there were mixtures.
        """
        fields: dict[str, Any] = handler(self)
        left_out = {"corpus"} if self.corpus is None else {*_MAKING}
        if self.mixture is None:
            left_out.add("mixture")
        return {name: value for name, value in fields.items() if name not in left_out}

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, got {names}")
        if self.mixture is not None and self.corpus is None:
            self.mixture.check_sources(names)
        return self

    @model_validator(mode="after")
    def _kept_by_a_score(self) -> Self:
        self.deduplicate.check_quality(self.quality)
        return self

    @model_validator(mode="after")
    def _corpus_is_as_it_is(self) -> Self:
        if self.corpus is not None and self.substrings is not None:
            raise ValueError(
                "substrings: the tokens of a data.corpus are made by its refreshes, which do not cut: leave it out, or "
                "name data.sources"
            )
        if self.corpus is not None and self.decontaminate.removes:
            raise ValueError(
                f"decontaminate.action {self.decontaminate.action}: the tokens of a data.corpus are made by its "
                "refreshes, which have a decontaminate of their own: say action: report, or name data.sources"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_stays_unseen(self) -> Self:
        pairs, tokenize = self.pairs, self.tokenize
        if (
            self.corpus is None
            and not pairs.files
            and (pairs.seed != tokenize.seed or pairs.held_out < tokenize.held_out)
        ):
            raise ValueError(
                f"pairs (seed {pairs.seed}, held_out {pairs.held_out}) derived from the documents need tokenize's seed "
                f"{tokenize.seed} and at least its held_out {tokenize.held_out}: tuning must not see held-out documents"
            )
        return self


_MAKING = ("sources", "curate", "privacy", "quality", "deduplicate", "substrings", "tokenize")
"""Sections that say how a corpus is made."""
