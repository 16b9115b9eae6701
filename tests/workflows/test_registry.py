"""Configurations find their workflow by name, and the identity of the ones that name none has not changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from chain import write_config

from illada.artifacts import fingerprint
from illada.config import ConfigError, WorkflowConfig, dump_config, load_config
from workflows.registry import load_workflow, parse_workflow, workflow_of

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "workflows").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load_and_round_trip(path: Path) -> None:
    config = load_workflow(path, ["name=other"])
    assert config.name == "other"
    assert parse_workflow(dump_config(config)) == config
    assert parse_workflow(dump_config(config), name="third").name == "third"


def test_default_workflow_is_no_part_of_identity() -> None:
    (path,) = (path for path in CONFIGS if path.stem == "illada-8b")
    config = load_workflow(path)
    assert config == load_config(path, WorkflowConfig) == load_workflow(path, ["workflow=crawl-to-release"])
    assert not {"workflow", "placement"} & config.identity().keys()
    assert fingerprint(config.identity()) == fingerprint(parse_workflow(dump_config(config)).identity())


@pytest.mark.parametrize(
    ("name", "message"),
    [("crawl-to-relaese", "did you mean 'crawl-to-release'?"), ("[1]", "one of crawl-to-release")],
)
def test_unknown_workflow_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"tiny.yaml: workflow: no workflow .*; ") as caught:
        load_workflow(write_config(tmp_path), [f"workflow={name}"])
    assert message in str(caught.value)


def test_each_stage_depends_on_its_part_of_the_configuration(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_workflow(path)
    workflow = workflow_of(config)
    workflow.check(config)
    before = workflow.stage_configs(config)
    assert list(before)[:3] == ["acquire-prose", "acquire-code", "curate"]
    assert list(before)[-1] == "release"

    def changed(*overrides: str) -> set[str]:
        after = workflow.stage_configs(load_workflow(path, overrides))
        return {stage for stage in before if after[stage] != before[stage]}

    assert changed("placement.data.workers=7", "name=other") == set()
    assert changed("data.curate.gopher_quality.min_doc_words=60") == {"curate"}
    assert changed("sft.epochs=2") == {"sft"}
    assert changed("pretrain.steps=14") == {"pretrain"}
    assert changed("model.layers=4") == {"pretrain", "sft", "export-base", "export-sft"}
    assert changed("generate.seed=1") == {"evaluate-base", "evaluate-sft"}
    assert changed("data.tokenizer.vocab_size=1024", "model.vocab_size=1024") > {"tokenizer", "pretrain"}


def test_missing_source_is_refused_before_work(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    raw = yaml.safe_load(path.read_text())
    raw["data"]["sources"][0]["paths"] = ["nowhere.jsonl"]
    path.write_text(yaml.safe_dump(raw))
    config = load_workflow(path)
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        workflow_of(config).check(config)
