"""How a trained model is measured and sampled."""

from __future__ import annotations

from pydantic import Field

from illada.config.base import Config


class Evaluate(Config):
    """Monte-Carlo bound on the held-out negative log-likelihood: `draws` noise levels for each of `windows` windows.

    Of an autoregressive model the likelihood itself, which needs no draws.
    """

    windows: int = Field(default=64, gt=1)
    draws: int = Field(default=8, gt=0)
    seed: int = Field(default=0, ge=0)


class Generate(Config):
    """Variable-length block generation with low-confidence remasking (LLaDA, iLLaDA).

    An autoregressive model writes token by token: `block` and `steps_per_block` are nothing to it.
    """

    max_new_tokens: int = Field(default=64, gt=0)
    block: int = Field(default=32, gt=0)
    steps_per_block: int = Field(default=32, gt=0)
    temperature: float = Field(default=0.0, ge=0)
    prompts: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)
