"""A quality classifier: the examples it learns from, how it is trained, and how much of the corpus it keeps."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from illada.config.base import Config
from illada.config.names import SourceName


class Examples(Config):
    """Texts with the same label, at most `documents` of them, chosen by hash.

    Either `paths`: JSON lines or JSON (plain, .gz, .zst) or Parquet, by glob, with one text column; or `from_source`:
    the curated documents of a source of this run.
    """

    paths: tuple[str, ...] = ()
    text_column: str = "text"
    from_source: SourceName | None = None
    documents: int = Field(default=100_000, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.paths) == (self.from_source is not None):
            raise ValueError("examples come from `paths` or `from_source`: give one of them")
        return self


class Quality(Config):
    """A fastText classifier over words and word n-grams, as DCLM's (arXiv 2406.11794).

    It is trained to tell `positive` from `negative` examples; of the corpus the best `keep` (a quantile, over all
    languages or in each) is kept. Code passes untouched. `buckets` x `dim` x 4 bytes is about the model's size.
    """

    positive: tuple[Examples, ...] = Field(min_length=1)
    negative: tuple[Examples, ...] = Field(min_length=1)
    word_ngrams: int = Field(default=2, ge=1)
    dim: int = Field(default=100, gt=0)
    epochs: int = Field(default=5, gt=0)
    lr: float = Field(default=0.1, gt=0)
    min_count: int = Field(default=5, gt=0)
    buckets: int = Field(default=2**18, gt=0)
    held_out: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    keep: float = Field(default=0.1, gt=0, le=1)
    by_language: bool = False
    rejected_sample: float = Field(default=0.05, ge=0, le=1)

    def training(self) -> dict[str, Any]:
        """What the model depends on, as plain JSON types."""
        return self.model_dump(mode="json", exclude={*_SELECTION})

    def selection(self) -> dict[str, Any]:
        """What the documents depend on besides the model."""
        return self.model_dump(mode="json", include={*_SELECTION})


_SELECTION = ("keep", "by_language", "rejected_sample")
