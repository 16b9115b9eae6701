"""How much of each source and language pretraining takes: weights, budgets, repetitions, temperature."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from pydantic import Field, model_validator

from illada.config.base import Config, ConfigError


class SourceShare(Config):
    """What one source gives: a `weight` relative to the other sources', or exactly `tokens`.

    `epochs` is the most times that any of its windows is seen; the mixture's when None.
    """

    weight: float | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.weight is not None and self.tokens is not None:
            raise ValueError("give a source a `weight` or `tokens`, not both")
        return self


class Bounds(Config):
    """Least and greatest share of a language in what a source gives."""

    minimum: float = Field(default=0.0, ge=0, le=1)
    maximum: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class Mixture(Config):
    """Parts of the training budget (steps x batch x window) by source, and within each source by language.

    Sources without any weight take part in proportion to their tokens. Languages of a source take part in proportion to
    n ** (1 / temperature), n their tokens (XLM-R, arXiv 1911.02116, whose alpha is 1 / temperature): 1 leaves them as
    they are, a greater one favours the small ones. `epochs` is the most times that any window is seen; up to four
    are worth nearly as much as new data (arXiv 2305.16264).
    """

    sources: dict[str, SourceShare] = Field(default_factory=dict)
    languages: dict[str, Bounds] = Field(default_factory=dict)
    temperature: float = Field(default=1.0, gt=0)
    epochs: float = Field(default=4.0, gt=0)

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        weighted = [name for name, share in self.sources.items() if share.weight is not None]
        left = [name for name, share in self.sources.items() if share.weight is None and share.tokens is None]
        if weighted and left:
            raise ValueError(
                f"sources {', '.join(left)}: with a weight for {', '.join(weighted)}, each needs one, or `tokens` "
                "(weight 0 leaves a source out)"
            )
        if weighted and not any(share.weight or share.tokens for share in self.sources.values()):
            raise ValueError("every weight is 0: nothing would be left to train on")
        if sum(bounds.minimum for bounds in self.languages.values()) > 1:
            raise ValueError("the languages' minimum shares sum up to more than 1")
        return self

    def check_sources(self, names: Collection[str]) -> None:
        """Raise ConfigError where the mixture names a source not among `names`, or weighs some and forgets others."""
        unknown = sorted(self.sources.keys() - set(names))
        if unknown:
            raise ConfigError(
                f"data.mixture.sources: no source is called {', '.join(unknown)}; there are {', '.join(names)}"
            )
        forgotten = [name for name in names if name not in self.sources]
        if forgotten and any(share.weight is not None for share in self.sources.values()):
            raise ConfigError(f"data.mixture.sources: give {', '.join(forgotten)} a weight too (0 leaves a source out)")
