"""A fork differs from its parent from one stage on, or is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from chain import write_config

from illada.config import ConfigError, RunConfig
from workflows.fork import fork_config
from workflows.registry import load_workflow, parse_workflow, workflow_of


@pytest.fixture
def parent(tmp_path: Path) -> RunConfig:
    """The tiny chain's configuration."""
    return load_workflow(write_config(tmp_path))


def test_change_from_a_stage_on(parent: RunConfig) -> None:
    fork, shared = fork_config(parent, "sft", ["sft.epochs=2"], "other")
    assert (fork.name, fork.placement) == ("other", parent.placement)
    assert shared[0] == "acquire-prose" and shared[-1] == "pairs" and "pretrain" in shared
    before, after = (workflow_of(config).stage_configs(config) for config in (parent, fork))
    assert {stage for stage in before if before[stage] != after[stage]} == {"sft"}


def test_change_after_the_stage_is_allowed(parent: RunConfig) -> None:
    assert fork_config(parent, "curate", ["release.model_name=other"], "other")[1] == ["acquire-prose", "acquire-code"]


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        (
            "sft",
            ["pretrain.steps=14"],
            r"stage pretrain comes before sft .*pretrain\.training\.steps: 12 -> 14.*: fork",
        ),
        ("curate", ["data.sources=[{kind: python-code, name: code, files: 24}]"], "stage acquire-prose .* is gone"),
        (
            "sft",
            ["data.curate.gopher_quality.min_doc_words=60", "sft.epochs=2"],
            r"stage curate .*curate\.gopher_quality\.min_doc_words: 50 -> 60",
        ),
        ("sft", [], "nothing differs from tiny"),
        ("sft", ["placement.data.workers=3"], "nothing differs from tiny"),
        ("sft", ["sft.epochz=2"], "did you mean 'epochs'"),
        ("sft", ["sft.epochs"], "write it as key.sub=value"),
        ("sfd", ["sft.epochs=2"], "the fork has no stage 'sfd'"),
        ("sft", ["sft.epochs=2", "workflow=refesh"], "no workflow 'refesh'"),
    ],
)
def test_refusals(parent: RunConfig, stage: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fork_config(parent, stage, overrides, "other")


def test_refresh_has_no_forks(tmp_path: Path) -> None:
    daily = parse_workflow(
        yaml.safe_dump(
            {
                "workflow": "refresh",
                "name": "daily",
                "corpus": "web",
                "sources": [{"kind": "folder", "name": "lines", "files": "jsonl", "location": str(tmp_path)}],
                "tokenizer": {"vocab_size": 400},
            }
        )
    )
    with pytest.raises(ConfigError, match="run daily is a refresh, which looks at its sources anew in every run"):
        fork_config(daily, "curate", ["curate.gopher_quality.min_doc_words=60"], "other")
