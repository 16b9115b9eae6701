"""A configuration reads back exactly, a typo is an error with the nearest name, and what cannot work is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from illada.artifacts import fingerprint
from illada.config import (
    ConfigError,
    FineWeb,
    GopherRepetition,
    ModelConfig,
    Objective,
    RefreshConfig,
    Responses,
    Schedule,
    Training,
    WorkflowConfig,
    dump_config,
    load_config,
    parse_config,
)
from workflows.registry import load_workflow

ROOT = Path(__file__).resolve().parents[2]
MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "sources": [{"kind": "warc", "name": "web", "paths": ["*.warc.gz"]}],
        "tokenizer": {"vocab_size": 512},
    },
    "model": {
        "layers": 4,
        "hidden_size": 64,
        "heads": 4,
        "kv_heads": 2,
        "ffn_size": 96,
        "vocab_size": 512,
        "max_positions": 64,
    },
    "pretrain": {
        "window": 64,
        "global_batch": 8,
        "steps": 10,
        "schedule": {"peak": 1e-3, "minimum": 1e-4, "warmup_steps": 2, "decay": "cosine", "decay_fraction": 0.2},
    },
    "sft": {
        "window": 64,
        "global_batch": 8,
        "epochs": 12,
        "schedule": {"peak": 1e-3, "minimum": 1e-4, "warmup_steps": 2, "decay": "linear", "decay_fraction": 0.2},
    },
    "release": {"model_name": "tiny"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """MINIMAL with dotted keys (two underscores for a dot) set; None removes."""
    raw = copy.deepcopy(MINIMAL)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        node = raw
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            del node[last]
        else:
            node[last] = value
    return raw


def write(path: Path, raw: Any) -> Path:
    """As YAML."""
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "workflows").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_load_and_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_workflow(path)
    again = load_workflow(write(tmp_path / "again.yaml", dump_config(config)))
    assert again == config
    assert type(again) is type(config) is (RefreshConfig if path.name == "refresh.yaml" else WorkflowConfig)
    assert dump_config(again) == dump_config(config)
    assert fingerprint(again.identity()) == fingerprint(config.identity())


@settings(deadline=None, max_examples=20)
@given(
    peak=st.floats(min_value=1e-12, max_value=1e3),
    minimum=st.floats(min_value=0, max_value=1e-12),
    fraction=st.floats(min_value=0, max_value=1),
    description=st.text(),
)
def test_any_value_survives_yaml(peak: float, minimum: float, fraction: float, description: str) -> None:
    raw = changed(release__description=description)
    raw["pretrain"]["schedule"] |= {"peak": peak, "minimum": minimum, "decay_fraction": fraction}
    config = parse_config(raw, WorkflowConfig)
    assert parse_config(yaml.safe_load(dump_config(config)), WorkflowConfig) == config


def test_identity_is_everything_but_placement() -> None:
    config = parse_config(MINIMAL, WorkflowConfig)
    placed = parse_config(changed(placement={"store": "elsewhere", "data": {"workers": 9}}), WorkflowConfig)
    assert placed != config
    assert placed.identity() == config.identity()
    assert "placement" not in config.identity()
    other = parse_config(changed(data__curate={"gopher_quality": {"min_doc_words": 51}}), WorkflowConfig)
    assert fingerprint(other.identity()) != fingerprint(config.identity())


def test_quality_filters_are_set_or_left_out() -> None:
    curate = {
        "gopher_repetition": {"dup_n_grams": [[5, 0.1]], "dup_line_frac": None},
        "gopher_quality": False,
        "c4": None,
    }
    config = parse_config(changed(data__curate=curate), WorkflowConfig).data.curate
    assert config.gopher_repetition == GopherRepetition(dup_n_grams=((5, 0.1),), dup_line_frac=None)
    assert (config.gopher_quality, config.c4, config.fineweb) == (None, None, FineWeb())


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("gopher_repetition", {"dup_line_frac": 0}, "dup_line_frac"),
        ("gopher_repetition", {"top_n_grams": [[0, 0.5]]}, "top_n_grams"),
        ("gopher_quality", {"min_doc_words": 9, "max_doc_words": 8}, "min_doc_words 9 is above max_doc_words 8"),
        ("c4", {"min_sentences": 5}, "min_num_sentences"),
        ("fineweb", {"short_line_thr": 1.5}, "short_line_thr"),
    ],
)
def test_thresholds_that_cannot_work(section: str, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(changed(data__curate={section: value}), WorkflowConfig)


def test_spelling_of_a_number_does_not_count() -> None:
    text = yaml.safe_dump(MINIMAL).replace("peak: 0.001", "peak: 1e-3")
    assert "1e-3" in text
    assert parse_config(yaml.safe_load(text), WorkflowConfig) == parse_config(MINIMAL, WorkflowConfig)
    whole = changed(data__curate={"language_threshold": 1})
    dotted = changed(data__curate={"language_threshold": 1.0})
    one, two = (parse_config(raw, WorkflowConfig) for raw in (whole, dotted))
    assert fingerprint(one.identity()) == fingerprint(two.identity())


def test_published_objectives_stay_what_they_were() -> None:
    """Stages from before there were choices keep their identity; a choice is part of it and reads back."""
    assert Objective().identity() == {"kind": "masked", "eps": 1e-3, "random_split": 0.3}
    chosen = Objective(random_split=0.0, levels="stratified", responses=Responses(padded_together=4))
    assert Objective.model_validate(chosen.identity()) == chosen
    assert {"levels", "responses"} <= chosen.identity().keys()
    assert Objective(isolate_documents=True).identity()["isolate_documents"] is True


def test_text_has_no_responses() -> None:
    objective = {"random_split": 0.0, "responses": {}}
    parse_config(changed(sft__objective=objective), WorkflowConfig)
    with pytest.raises(ConfigError, match=r"sft\.objective: .*leave out isolate_documents"):
        parse_config(changed(sft__objective={**objective, "isolate_documents": True}), WorkflowConfig)
    with pytest.raises(ConfigError, match=r"pretrain\.objective\.responses: .* a setting of sft\.objective"):
        parse_config(changed(pretrain__objective=objective), WorkflowConfig)


def test_records_are_frozen() -> None:
    config = parse_config(MINIMAL, WorkflowConfig)
    with pytest.raises(ValidationError):
        config.model.layers = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(modle={}), "modle: unknown key; did you mean 'model'?"),
        (changed(pretrain__windw=3), "pretrain.windw: unknown key; did you mean 'window'?"),
        (changed(pretrain__schedule__warmup=3), "pretrain.schedule.warmup: unknown key; did you mean 'warmup_steps'?"),
        (changed(placement__sft__tensr=2), "placement.sft.tensr: unknown key; did you mean 'tensor'?"),
        (
            changed(data__sources=[{"kind": "warc", "name": "web", "pahts": ["x"], "paths": ["x"]}]),
            "data.sources.0.warc.pahts: unknown key; did you mean 'paths'?",
        ),
        (
            changed(data__sources=[{"kind": "jsonl", "name": "web", "paths": ["x"], "text_colum": "t"}]),
            "data.sources.0.jsonl.text_colum: unknown key; did you mean 'text_column'?",
        ),
        (
            changed(release__zzzzzz=1),
            "release.zzzzzz: unknown key; valid keys: description, gates, licence, model_name, waivers",
        ),
    ],
)
def test_misspelt_key_names_the_nearest(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, WorkflowConfig, where="my.yaml")
    assert str(caught.value) == f"my.yaml: {message}"


def test_every_bad_key_is_told_at_once() -> None:
    raw = changed(modle={}, pretrain__windw=3, model__layers=0, release=None)
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, WorkflowConfig)
    for part in ("modle: unknown", "pretrain.windw: unknown", "model.layers: ", "release: Field required"):
        assert part in str(caught.value)


def test_what_a_corpus_fixes_of_its_deduplication() -> None:
    keys = {"ngram": 5, "bands": 14, "rows": 8, "seed": 1}
    raw = {
        "workflow": "refresh", "name": "daily", "corpus": "web", "tokenizer": {"vocab_size": 400},
        "sources": [{"kind": "folder", "name": "lines", "files": "jsonl", "location": "lines"}],
    }  # fmt: skip

    def fixed(**deduplicate: Any) -> Any:
        return parse_config({**raw, "deduplicate": deduplicate}, RefreshConfig).fixed()["deduplicate"]

    assert fixed() == fixed(keep="oldest") == keys
    assert fixed(urls=True) == {**keys, "urls": True}
    with pytest.raises(ConfigError, match=r"deduplicate\.keep quality: .*configure `quality`"):
        fixed(keep="quality")


LAYOUT = "placement.pretrain"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(name="../x"), "name: "),
        (changed(name="Upper"), "name: "),
        (changed(data__sources=[]), "data.sources: "),
        (changed(data__sources=[{"kind": "warc", "name": "../x", "paths": ["x"]}]), "data.sources.0.warc.name: "),
        (
            changed(data__sources=[{"kind": "tape", "name": "x", "paths": ["x"]}]),
            "data.sources.0: .*'tape'.*'web-docs'",
        ),
        (
            changed(data__sources=MINIMAL["data"]["sources"] * 2),
            r"data: source names must differ, got \['web', 'web'\]",
        ),
        (changed(data__tokenizer__vocab_size=1024), "model.vocab_size 512 must equal data.tokenizer.vocab_size 1024"),
        (changed(data__tokenizer__vocab_size=100), "data.tokenizer.vocab_size: "),
        (changed(data__curate={"language_threshold": 1.5}), "data.curate.language_threshold: "),
        (changed(data__deduplicate={"keep": "newest"}), "data.deduplicate.keep: .*'oldest'"),
        (changed(data__deduplicate={"keep": "quality"}), "data: deduplicate.keep quality: .*configure `quality`"),
        (changed(model__hidden_size=66), "model: hidden_size 66 is not a multiple of heads 4"),
        (changed(model__hidden_size=60), r"model: the head width 15 \(hidden_size / heads\) must be even"),
        (changed(model__kv_heads=3), "model: heads 4 is not a multiple of kv_heads 3"),
        (changed(pretrain__window=65), "pretrain.window 65 is longer than model.max_positions 64"),
        (changed(sft__window=65), "sft.window 65 is longer than model.max_positions 64"),
        (changed(pretrain__epochs=1), "pretrain: give exactly one of `steps` and `epochs`"),
        (changed(pretrain__steps=None), "pretrain: give exactly one of `steps` and `epochs`"),
        (changed(pretrain__schedule__minimum=1.0), "minimum learning rate 1.0 is above the peak 0.001"),
        (changed(pretrain__schedule__peak=float("nan")), "pretrain.schedule.peak: "),
        (changed(pretrain__schedule__decay="exponential"), "pretrain.schedule.decay: "),
        (changed(placement__pretrain={"tensor": 3}), f"{LAYOUT}.tensor 3 does not divide model.heads 4"),
        (changed(placement__pretrain={"tensor": 4}), f"{LAYOUT}.tensor 4 does not divide model.kv_heads 2"),
        (
            changed(placement__pretrain={"tensor": 2}, model__ffn_size=97),
            f"{LAYOUT}.tensor 2 does not divide model.ffn_size 97",
        ),
        (
            changed(placement__pretrain={"tensor": 2}, model__vocab_size=513, data__tokenizer__vocab_size=513),
            f"{LAYOUT}.tensor 2 does not divide model.vocab_size 513",
        ),
        (changed(placement__pretrain={"pipeline": 3}), f"{LAYOUT}.pipeline 3 does not divide model.layers 4"),
        (changed(placement__sft={"pipeline": 3}), r"placement.sft.pipeline 3 does not divide model.layers 4"),
        (
            changed(placement__sft={"pipeline": 2, "virtual": 4}),
            "placement.sft.pipeline 2 x virtual 4 does not divide model.layers 4",
        ),
        (changed(placement__pretrain={"virtual": 2}), f"{LAYOUT}: virtual 2 needs a pipeline"),
        (
            changed(placement__pretrain={"pipeline": 2, "virtual": 2, "micro_batch": 8}),
            "pretrain.global_batch 8 gives 1 micro-batches a step: .* a multiple of pipeline 2",
        ),
        (
            changed(placement__pretrain={"tensor": 2, "context": 3}),
            f"{LAYOUT}.tensor 2 x context 3 does not divide pretrain.window",
        ),
        (
            changed(placement__pretrain={"data": 2, "micro_batch": 3}),
            "pretrain.global_batch 8 is not a multiple of placement.pretrain.data x micro_batch = 6",
        ),
        (
            changed(pretrain__batch_ramp=[{"batch": 3, "until_tokens": 100}], placement__pretrain={"data": 2}),
            "pretrain.batch_ramp: 3 is not a multiple of placement.pretrain.data x micro_batch = 2",
        ),
        (
            changed(pretrain__batch_ramp=[{"batch": 8, "until_tokens": 100}]),
            "batch_ramp goes up to global_batch 8, stage after stage: 8 windows until 100 tokens does not",
        ),
        (
            changed(pretrain__batch_ramp=[{"batch": 2, "until_tokens": 100}, {"batch": 4, "until_tokens": 100}]),
            "4 windows until 100 tokens does not",
        ),
        (
            changed(model__attention="causal"),
            "pretrain.objective.kind masked needs model.attention bidirectional, not causal",
        ),
        (
            changed(
                model__attention="causal",
                pretrain__objective={"kind": "autoregressive"},
                placement__pretrain={"context": 2},
            ),
            "placement.pretrain.context: causal attention is not divided over ranks",
        ),
        (
            changed(sft__objective={"kind": "autoregressive"}),
            "sft.objective.kind autoregressive needs model.attention causal, not bidirectional",
        ),
        (
            changed(pretrain__objective={"kind": "autoregressive", "eps": 0.01, "levels": "stratified"}),
            "pretrain.objective: eps, levels: only a masked objective has it",
        ),
        (changed(placement__pretrain={"data": 0}), "placement.pretrain.data: "),
        (changed(placement__object_store_mb=1), "placement.object_store_mb: "),
    ],
)
def test_what_cannot_work_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(raw, WorkflowConfig)


def test_identity_is_of_what_differs() -> None:
    """What was there before there was a choice is named as it was: fingerprints stay."""
    masked = parse_config(MINIMAL, WorkflowConfig)
    assert masked.pretrain.objective.identity() == {"kind": "masked", "eps": 1e-3, "random_split": 0.3}
    assert "attention" not in masked.identity()["model"] and "batch_ramp" not in masked.identity()["pretrain"]
    objective = {"kind": "autoregressive"}
    raw = changed(model__attention="causal", pretrain__objective=objective, sft__objective=objective)
    config = parse_config(raw, WorkflowConfig)
    assert config.pretrain.objective.identity() == {**objective, "random_split": 0.3}
    assert config.identity()["model"]["attention"] == "causal"
    assert WorkflowConfig.model_validate(config.identity() | {"workflow": "crawl-to-release"}) == config


def test_minimal_configuration_is_valid() -> None:
    config = parse_config(MINIMAL, WorkflowConfig)
    assert config.model == ModelConfig(**MINIMAL["model"])
    assert config.pretrain == Training(**MINIMAL["pretrain"])
    assert config.pretrain.schedule == Schedule(**MINIMAL["pretrain"]["schedule"])
    assert config.model.head_dim == 16
    assert config.placement.pretrain.ranks == 1


def test_overrides_and_bases(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", MINIMAL)
    (tmp_path / "sub").mkdir()
    middle = write(tmp_path / "sub" / "middle.yaml", {"extends": "../base.yaml", "model": {"layers": 8}})
    path = write(tmp_path / "top.yaml", {"extends": "sub/middle.yaml", "data": {"sources": [SOURCE]}})
    config = load_config(path, WorkflowConfig, ["pretrain.steps=20", "placement.sft.tensor=2", "release.licence=mit"])
    assert load_config(middle, WorkflowConfig).model.layers == config.model.layers == 8
    assert [source.name for source in config.data.sources] == ["book"], "a list is replaced, not merged"
    assert config.data.tokenizer.vocab_size == 512
    assert (config.pretrain.steps, config.placement.sft.tensor, config.release.licence) == (20, 2, "mit")


SOURCE = {"kind": "jsonl", "name": "book", "paths": ["book.jsonl"]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.steps", "write it as key.sub=value"),
        ("=3", "write it as key.sub=value"),
        ("name.first=x", "name is not a section"),
        ("pretrain.steps=[1", "the value is not YAML"),
        ("pretrain.stesp=3", "pretrain.stesp: unknown key; did you mean 'steps'?"),
    ],
)
def test_bad_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path / "x.yaml", MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load_config(path, WorkflowConfig, [override])
    assert message in str(caught.value)


def test_anchors_and_merges_are_no_repetition(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in MINIMAL.items() if key not in ("pretrain", "sft")})
    text += """
pretrain: &training
  window: 64
  global_batch: 8
  steps: 10
  schedule: {peak: 1.0e-3, minimum: 0, warmup_steps: 1, decay: linear, decay_fraction: 0.1}
sft:
  <<: *training
  steps: 20
"""
    config = load_config(write(tmp_path / "x.yaml", text), WorkflowConfig)
    assert (config.pretrain.steps, config.sft.steps) == (10, 20)
    assert config.sft.schedule == config.pretrain.schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not YAML"),
        ("", "must hold a mapping of keys, got NoneType"),
        ("- 1", "must hold a mapping of keys, got list"),
        ("name: a\nname: b\n", "is not YAML .*'name' is given twice"),
        ("model:\n  layers: 1\n  heads: 2\n  layers: 3\n", "'layers' is given twice"),
        ("when: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("extends: x.yaml", "`extends` goes round in a circle"),
        ("extends: missing.yaml", r"missing\.yaml: cannot be read \(No such file"),
    ],
)
def test_unreadable_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "x.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, WorkflowConfig)
    assert str(tmp_path) in str(caught.value)


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(path, WorkflowConfig)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, WorkflowConfig)
