"""The base of every configuration record: frozen, keyword-only, and strict about names and types.

A misspelt key is an error that names the nearest valid one, never a silent default. A record dumps to plain JSON types
(`identity`), which is what fingerprints are taken of.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ConfigError(ValueError):
    """A configuration that cannot work: what is wrong, where (dotted key or file), and what to do about it."""


class Config(BaseModel):
    """A frozen record. Unknown keys are refused; defaults are validated like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """This record as plain JSON types: what a stage's fingerprint is computed from."""
        return self.model_dump(mode="json")
