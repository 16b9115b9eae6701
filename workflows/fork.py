"""Forks: a new run that has every stage before one of them in common with its parent, and a changed configuration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import yaml

from illada.config import ConfigError, RunConfig, apply_overrides, dump_config
from illada.durable.runs import differences
from workflows.registry import parse_workflow, workflow_of


def fork_config(parent: RunConfig, stage: str, overrides: Sequence[str], name: str) -> tuple[RunConfig, list[str]]:
    """The configuration of a fork called `name`, and the stages before `stage`, which it shares with `parent`.

    Raises:
        ConfigError: `overrides` are invalid, change nothing, or change a stage before `stage`; names stage and keys.
    """
    if workflow_of(parent).looks:
        raise ConfigError(
            f"run {parent.name} is a {parent.workflow}, which looks at its sources anew in every run: start the "
            "changed configuration as a run of its own; what both have in common is reused"
        )
    raw = yaml.safe_load(dump_config(parent))
    apply_overrides(raw, overrides)
    fork = parse_workflow(yaml.safe_dump({**raw, "name": name}), where=f"fork of {parent.name}")
    if _without_name(fork) == _without_name(parent):
        raise ConfigError(
            f"nothing differs from {parent.name}: give what should as --set key=value; to build the same again, "
            f"illada resume {parent.name} --from {stage}"
        )
    before, after = (workflow_of(config).stage_configs(config) for config in (parent, fork))
    order = list(after)
    if stage not in order:
        raise ConfigError(f"the fork has no stage {stage!r}: its stages are {', '.join(order)}")
    shared = order[: order.index(stage)]
    for earlier in [*shared, *itertools.takewhile(lambda name: name != stage, before)]:
        there, here = ({earlier: found[earlier]} if earlier in found else {} for found in (before, after))
        changes = ", ".join(differences(there, here))
        if changes:
            raise ConfigError(
                f"stage {earlier} comes before {stage} and would change ({changes}): fork from {earlier} or an earlier "
                "stage"
            )
    return fork, shared


def _without_name(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in config.identity().items() if key != "name"}
