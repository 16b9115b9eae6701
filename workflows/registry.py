"""The workflows by name: what `workflow:` in a configuration may say, and the graph each one stands for.

A workflow's module defines ``WORKFLOW``. It is imported at need only: a graph knows the whole chain and its libraries,
while looking at a configuration needs the configuration's record.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml

from illada.config import (
    ConfigError,
    RefreshConfig,
    ReleaseConfig,
    RunConfig,
    WorkflowConfig,
    parse_config,
    read_config,
)

if TYPE_CHECKING:
    from illada.durable.engine import StageRunner

C = TypeVar("C", bound=RunConfig)

DEFAULT = "crawl-to-release"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workflow(Generic[C]):
    """What a run does with its configuration.

    `check` raises ConfigError for whatever can be known to be wrong before any work starts. `graph` goes through the
    stages and returns the run's result (JSON). `stage_configs` gives the part of the configuration that each stage's
    identity is made of, in the order of the graph, which takes it from here. `looks` names stages that look at the
    world once for each run, and are not built again for it: two runs cannot have them in common.
    """

    check: Callable[[C], None]
    graph: Callable[[StageRunner, C], Mapping[str, Any]]
    stage_configs: Callable[[C], dict[str, dict[str, Any]]]
    looks: tuple[str, ...] = ()


_KINDS: dict[str, tuple[type[RunConfig], str]] = {
    DEFAULT: (WorkflowConfig, "workflows.crawl_to_release"),
    "refresh": (RefreshConfig, "workflows.refresh"),
    "release": (ReleaseConfig, "workflows.release"),
}


def load_workflow(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file, of whichever workflow it names. Raises ConfigError; see `load_config`."""
    return _parse(read_config(path, overrides), where=str(path))


def parse_workflow(text: str, where: str = "configuration", **changes: Any) -> RunConfig:
    """The configuration that `dump_config` wrote, with top-level keys replaced by `changes`. Raises ConfigError."""
    return _parse({**yaml.safe_load(text), **changes}, where)


def workflow_of(config: RunConfig) -> Workflow[Any]:
    """The workflow that a configuration is of."""
    workflow: Workflow[Any] = importlib.import_module(_KINDS[config.workflow][1]).WORKFLOW
    return workflow


def _parse(raw: Mapping[str, Any], where: str) -> RunConfig:
    name = str(raw.get("workflow", DEFAULT))
    if name not in _KINDS:
        near = difflib.get_close_matches(name, _KINDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(_KINDS)}"
        raise ConfigError(f"{where}: workflow: no workflow {name!r}; {hint}")
    return parse_config(raw, _KINDS[name][0], where)
