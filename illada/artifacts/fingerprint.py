"""Identity of a stage's output: sha256 over (stage name, stage version, identity configuration, input fingerprints).

What cannot be serialised canonically is refused, never approximated: a fingerprint that two different things share, or
one thing has twice, would break reuse silently.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageIdentity:
    """What a stage *is*. `version` rises whenever the code would give another output for the same configuration."""

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse a name that is no plain folder name: it becomes one in the store."""
        if not _STAGE_NAME.fullmatch(self.stage):
            raise ValueError(f"stage name {self.stage!r}: use letters, digits, '.', '_' and '-' only, at most 80")

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits."""
        return fingerprint({"stage": self.stage, "version": self.version, "config": self.config, "inputs": self.inputs})


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of `value`. Raises TypeError or ValueError for what has no canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: str-keyed mappings, sequences, str, int, finite float, bool, None."""
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _plain(value: Any, where: str) -> Any:
    if value is None or type(value) in (str, int, bool):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} has no canonical form")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where}: key {key!r} is not a string")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where}: a {type(value).__name__} has no canonical form")
