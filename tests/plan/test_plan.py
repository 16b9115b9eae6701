"""The plan against figures worked out by hand, published totals, and an optimum found by search."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from illada.cli.main import app
from illada.config import ConfigError, TrainPlacement, WorkflowConfig, load_config
from illada.train.cadence import daly_interval, lost_fraction
from illada.train.memory import KEPT_BYTES, TILE_LOGITS, rank_memory, rank_parameters
from illada.train.plan import Cluster, checkpoint_bytes, plan

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "workflows"


def workflow(name: str, *overrides: str) -> WorkflowConfig:
    return load_config(CONFIGS / f"{name}.yaml", WorkflowConfig, overrides)


def test_illada_8b_has_the_published_size_and_recipe() -> None:
    config = workflow("illada-8b")
    made = plan(config, Cluster())
    # by hand: 155,136 x 4096; a layer is 2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336 + 2 x 4096
    assert made.parameters.embedding == 635_437_056
    assert made.parameters.non_embedding == 32 * 218_112_000 + 4096 == 6_979_588_096
    assert round(made.parameters.total / 1e9, 2) == 7.62 and round(made.parameters.non_embedding / 1e9, 2) == 6.98
    assert made.pretrain.tokens == pytest.approx(12e12, rel=1e-6)
    assert (config.pretrain.window, config.sft.epochs, config.pretrain.objective.random_split) == (8192, 12, 0.3)
    assert (config.pretrain.schedule.peak, config.pretrain.schedule.minimum) == (2e-4, 5e-6)
    assert (config.sft.schedule.peak, config.sft.schedule.minimum) == (5e-6, 5e-7)
    assert made.sft.tokens == pytest.approx(12 * 25e9, rel=1e-3)
    assert made.warnings == []


def test_llada_8b_has_the_published_size_and_recipe() -> None:
    config = workflow("llada-8b")
    made = plan(config, Cluster())
    assert made.parameters.embedding == 2 * 126_464 * 4096
    assert made.parameters.non_embedding == 6_979_588_096
    assert round(made.parameters.total / 1e9, 2) == 8.02
    assert made.pretrain.tokens_per_step == 1280 * 4096
    assert made.pretrain.tokens == pytest.approx(2.3e12, rel=1e-6)
    assert (config.pretrain.schedule.peak, config.pretrain.schedule.warmup_steps) == (4e-4, 2000)
    assert made.warnings == []


def test_operations_and_time_by_hand() -> None:
    config = workflow("illada-8b", "pretrain.steps=10")
    made = plan(config, Cluster(devices=256, peak_tflops=1000.0, mfu=0.5)).pretrain
    # matrices 32 x (2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336); a token attends to 0.7 L + 0.3 (2 L - 1) / 3
    matrices = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    attended = 0.7 * 8192 + 0.3 * (2 * 8192 - 1) / 3
    head = 155_136 * 4096 * (1 + 1e-3) / 2
    per_token = 3 * (2 * matrices + 4 * 32 * 4096 * attended + 2 * head)
    assert made.flops_per_token == pytest.approx(per_token, rel=1e-12)
    assert made.flops == pytest.approx(per_token * 10 * 1024 * 8192)
    assert made.seconds_per_step == pytest.approx(per_token * 1024 * 8192 / (256 * 5e14))
    assert made.days is not None and made.device_hours == pytest.approx(made.days * 24 * 256)
    assert made.days == pytest.approx(10 * made.seconds_per_step / 86400)


def test_device_hours_do_not_depend_on_devices() -> None:
    config = workflow("illada-8b")
    few, many = plan(config, Cluster(devices=128)).pretrain, plan(config, Cluster(devices=1024)).pretrain
    assert few.device_hours == pytest.approx(many.device_hours)
    assert few.days is not None and few.days == pytest.approx(8 * (many.days or 0))
    assert many.days_with_failures is not None and many.days is not None and many.days_with_failures > many.days


def test_memory_of_the_8b_model_by_hand() -> None:
    config = workflow("illada-8b")
    memory = rank_memory(config.model, config.pretrain, config.placement.pretrain)
    layer = (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336) // 2 + 2 * 4096
    count = 32 * layer + 155_136 // 2 * 4096 + 4096
    assert memory.weights == 2 * count and memory.gradients == 4 * count
    assert memory.optimizer == 12 * count // 128  # Megatron-Core's user guide: 6 + 12/d bytes in all
    per_token = (4 * 4096 + 3 * 4096 + 3 * 1024 + 5 * 14336) / 2  # tensor-parallel ranks divide the sequence as well
    assert memory.activations == (32 * per_token + 4096 / 2 + 4096) * 8192 * 2
    # at the head's peak: kept tiles of 512 rows, gradients of weight and, in float32, of hidden states, copies of these
    # in float32 and bfloat16, and a sum for each tile and position
    assert memory.logits == 2**28
    head = 155_136 // 2 * 4096 * 2 + 8192 * 4096 * (4 + 4 + 2) + 152 * 8192 * 4
    assert memory.head_gradient == head
    assert memory.boundary == memory.layer_gradient == 0
    state = memory.weights + memory.gradients + memory.optimizer
    assert memory.gathered == 8192 * 4096 * 2
    assert memory.total == state + memory.activations + memory.gathered + memory.logits + memory.head_gradient


def test_bounds_of_logits_are_the_heads() -> None:
    head = pytest.importorskip("illada.model.head")
    assert (head.TILE_LOGITS, head.KEPT_BYTES) == (TILE_LOGITS, KEPT_BYTES)


@pytest.mark.parametrize("name", ["illada-8b", "llada-8b", "demo"])
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2), (2, 2), (2, 4)])
def test_parameters_of_all_ranks_are_the_models(name: str, tensor: int, pipeline: int) -> None:
    model = workflow(name).model
    placement = TrainPlacement(tensor=tensor, pipeline=pipeline)
    held = tensor * sum(rank_parameters(model, placement, stage) for stage in range(pipeline))
    norms_again = (tensor - 1) * (2 * model.layers + 1) * model.hidden_size
    embedding_again = model.vocab_size * model.hidden_size if model.tied_embeddings and pipeline > 1 else 0
    assert held == plan(workflow(name), Cluster()).parameters.total + norms_again + embedding_again


def test_pipeline_keeps_as_many_micro_batches_as_are_in_flight() -> None:
    config = workflow("illada-8b")
    single = rank_memory(config.model, config.pretrain, TrainPlacement(tensor=2, data=128))
    piped = rank_memory(config.model, config.pretrain, TrainPlacement(tensor=2, pipeline=4, data=128))
    assert piped.pipeline_stage == 0  # a quarter of the layers, four micro-batches
    assert piped.activations == single.activations - 3 * 2048 * 8192 * 2  # the final norm and the head are elsewhere
    assert piped.boundary == (4 + 1) * 8192 * 2048 * 2  # what it has sent, and the gradient it has received
    assert piped.layer_gradient == 2 * 14336 // 2 * 8192 * 2 and piped.head_gradient == 0
    assert piped.weights < single.weights / 3


def test_virtual_stages_keep_more_and_shrink_the_bubble() -> None:
    """Narayanan et al. (arXiv 2104.04473), 2.2: with v virtual stages the bubble is a v-th."""
    config = workflow("illada-8b")
    piped = TrainPlacement(tensor=2, pipeline=4, data=128)
    turns = piped.model_copy(update={"virtual": 4})
    one, four = (rank_memory(config.model, config.pretrain, place) for place in (piped, turns))
    ahead = 2 * 3 + 3 * 4  # stages of two layers in the warm-up of the first rank
    assert four.activations * 4 * 4 == one.activations * (ahead + 1)
    plain, virtual = (
        plan(workflow("illada-8b", *set_pipeline), Cluster()).pretrain.pipeline_bubble
        for set_pipeline in (
            ["placement.pretrain.pipeline=4", "placement.pretrain.data=32"],
            ["placement.pretrain.pipeline=4", "placement.pretrain.data=32", "placement.pretrain.virtual=4"],
        )
    )
    assert plain / (1 - plain) == pytest.approx(4 * virtual / (1 - virtual))


def test_context_parallel_ranks_have_a_part_of_the_window() -> None:
    config = workflow("illada-8b")
    whole = rank_memory(config.model, config.pretrain, TrainPlacement(tensor=2, data=128))
    parts = rank_memory(config.model, config.pretrain, TrainPlacement(tensor=2, context=4, data=32))
    assert parts.weights == whole.weights and parts.optimizer == whole.optimizer
    joint_projection = 32 * (4096 + 3 * 1024) * 8192 // 4  # of which the value is a view, where it is not gathered
    keys_and_values = 32 * 2 * 1024 * 8192
    assert parts.activations == whole.activations // 4 - joint_projection + keys_and_values


def test_float32_needs_more() -> None:
    config = workflow("illada-8b", "pretrain.dtype=float32")
    half = rank_memory(config.model, workflow("illada-8b").pretrain, config.placement.pretrain)
    full = rank_memory(config.model, config.pretrain, config.placement.pretrain)
    assert full.weights == 2 * half.weights and full.gradients == half.gradients
    assert full.optimizer * 12 == pytest.approx(half.optimizer * 8, rel=1e-6)
    assert full.activations == 2 * half.activations


def test_warnings_say_what_does_not_fit_and_what_to_do() -> None:
    config = workflow(
        "illada-8b",
        "placement.pretrain.tensor=1",
        "placement.pretrain.micro_batch=4",
        "placement.pretrain.checkpoint_steps=20",
        "placement.sft.pipeline=4",
        "placement.sft.data=32",
        "placement.sft.micro_batch=2",
        "placement.sft.gpus_per_rank=0",
    )
    warnings = plan(config, Cluster(devices=64, device_memory_gb=60)).warnings
    assert [text.split(":")[0] for text in warnings] == ["pretrain"] * 3 + ["sft"] * 3
    assert "does not fit" in warnings[0] and "60 GB" in warnings[0] and "placement.pretrain.tensor" in warnings[0]
    assert "128 ranks, the times are of 64 devices" in warnings[1]
    assert "checkpoints every 20 steps lose" in warnings[2]
    assert "leaves little of 60 GB" in warnings[3] or "does not fit" in warnings[3]
    assert "43% of the time is pipeline bubble" in warnings[4]
    assert "placed on CPUs" in warnings[5]


def test_length_that_depends_on_the_data_is_null() -> None:
    made = plan(workflow("demo", "pretrain.steps=null", "pretrain.epochs=2"), Cluster())
    assert made.pretrain.steps is None and made.pretrain.tokens is None and made.pretrain.device_hours is None
    assert any(text.startswith("pretrain: its length depends on the data") for text in made.warnings)
    assert "tokenize" not in made.storage


def test_sft_length_from_derived_conversations() -> None:
    config = workflow("demo")
    pairs = config.data.pairs
    corpus = pairs.max_pairs * pairs.max_characters / 4 * (1 - pairs.held_out)
    assert plan(config, Cluster()).sft.steps == 12 * int(corpus // 256) // 8


def test_a_batch_ramp_changes_steps_or_tokens() -> None:
    """2 windows for 10 steps, 4 for 5, then 8: by steps there are fewer tokens, by epochs more steps."""
    ramp = "batch_ramp=[{batch: 2, until_tokens: 5120}, {batch: 4, until_tokens: 10240}]"
    one_rank = "placement.{0}={{tensor: 1, pipeline: 1, micro_batch: 2}}"
    plain, made = (
        plan(workflow("demo", *changes), Cluster())
        for changes in ((), (f"pretrain.{ramp}", one_rank.format("pretrain"), f"sft.{ramp}", one_rank.format("sft")))
    )
    assert made.pretrain.steps == plain.pretrain.steps == 400 and plain.sft.steps is not None
    assert made.pretrain.tokens == (400 * 8 - 10 * 6 - 5 * 4) * 256
    assert made.pretrain.days == pytest.approx(plain.pretrain.days * (3200 - 80) / 3200)
    assert made.sft.steps == plain.sft.steps + 10  # the 40 windows of 15 steps are 5 steps of the others


def test_sft_length_with_a_conversation_a_row() -> None:
    config = workflow("llada-8b")
    made = plan(config, Cluster())
    assert made.sft.steps == 3 * int(4_500_000 * (1 - 1e-4)) // 256
    assert any("a conversation a row" in text for text in made.assumptions)


def test_storage_by_hand() -> None:
    storage = plan(workflow("illada-8b"), Cluster()).storage
    assert storage["tokenize"] == pytest.approx(12e12 * 4, rel=1e-6)
    assert storage["pretrain"] == (3 + 1) * 7_615_025_152 * 14
    assert storage["release"] == 7_615_025_152 * 4
    assert storage["total"] == pytest.approx(sum(size for name, size in storage.items() if name != "total"))
    demo = workflow("demo").pretrain
    assert demo.steps is not None
    tokens = demo.steps * demo.global_batch * demo.window
    assert plan(workflow("demo"), Cluster()).storage["tokenize"] == tokens * 2  # small vocabulary: two bytes an id
    assert checkpoint_bytes(100, "float32") == 1600


@pytest.mark.parametrize(
    ("checkpoint", "mtbf"), [(20.0, 700_000.0), (60.0, 11_000.0), (300.0, 3_600.0), (900.0, 3_600.0)]
)
def test_daly_interval_is_where_the_exact_loss_is_least(checkpoint: float, mtbf: float) -> None:
    def lost(interval: float) -> float:
        return lost_fraction(interval, checkpoint, mtbf, 300.0)

    low, high = 1.0, 5 * mtbf
    for _ in range(200):  # golden section
        a, b = high - (high - low) * 0.618033988, low + (high - low) * 0.618033988
        low, high = (low, b) if lost(a) < lost(b) else (a, high)
    found = daly_interval(checkpoint, mtbf)
    assert found == pytest.approx(low, rel=0.02)
    assert lost(found) - lost(low) < 2e-4


def test_daly_limits() -> None:
    young = math.sqrt(2 * 1.0 * 1e9)
    assert daly_interval(1.0, 1e9) == pytest.approx(young, rel=1e-4)
    assert daly_interval(500.0, 200.0) == 200.0
    with pytest.raises(ValueError, match="positive"):
        daly_interval(0.0, 10.0)


def test_lost_fraction_without_failures_is_the_checkpoints() -> None:
    assert lost_fraction(90.0, 10.0, 1e12, 0.0) == pytest.approx(0.1)
    assert lost_fraction(1e9, 10.0, 100.0, 0.0) == 1.0


@pytest.mark.parametrize(("field", "value"), [("devices", 0), ("mfu", 1.2), ("mtbf_hours", -1.0)])
def test_impossible_cluster_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Cluster(**{field: value})  # type: ignore[arg-type]


def test_json_keys() -> None:
    read = json.loads(json.dumps(plan(workflow("llada-8b"), Cluster(devices=512)).as_json()))
    assert read["parameters"] == {
        "total": 8_015_581_184,
        "non_embedding": 6_979_588_096,
        "embedding": 1_035_993_088,
        "active": 8_015_581_184,
    }
    assert read["cluster"]["devices"] == 512
    assert isinstance(read["pretrain"]["device_hours"], float) and read["pretrain"]["checkpoint"]["bytes"] > 1e11
    assert read["warnings"] and read["assumptions"]


@pytest.mark.parametrize(("name", "total", "non_embedding"), [("illada-8b", 7.62, 6.98), ("llada-8b", 8.02, 6.98)])
def test_command_prints_every_figure(name: str, total: float, non_embedding: float) -> None:
    asked = ["plan", str(CONFIGS / f"{name}.yaml"), "--json", "--devices", "1024", "--mfu", "0.38"]
    result = CliRunner().invoke(app, [*asked, "--mtbf", "2000", "--restart", "20", "--write", "50"])
    assert result.exit_code == 0, result.output
    read = json.loads(result.stdout)
    assert round(read["parameters"]["total"] / 1e9, 2) == round(read["parameters"]["active"] / 1e9, 2) == total
    assert round(read["parameters"]["non_embedding"] / 1e9, 2) == non_embedding
    made = read["pretrain"]
    assert {"weights", "gradients", "optimizer", "activations", "logits", "total"} <= made["memory_per_rank"].keys()
    for figure in ("flops", "tokens_per_step", "device_hours", "days", "days_with_failures"):
        assert made[figure] > 0
    assert {"tokenize", "pretrain", "sft", "release", "total"} <= read["storage"].keys()
    seconds = made["checkpoint"]["bytes"] / 50e9
    best = daly_interval(seconds, 2000 * 3600 / 1024)
    assert made["checkpoint"]["best_interval_seconds"] == pytest.approx(best)
    assert made["checkpoint"]["best_lost_fraction"] == pytest.approx(
        lost_fraction(best, seconds, 2000 * 3600 / 1024, 20 * 60)
    )


def test_a_refresh_has_no_plan(tmp_path: Path) -> None:
    source = {"kind": "folder", "name": "crawl", "files": "jsonl", "location": str(tmp_path)}
    config = tmp_path / "refresh.yaml"
    refresh = {"workflow": "refresh", "name": "r", "corpus": "web", "sources": [source]}
    config.write_text(json.dumps(refresh | {"tokenizer": {"vocab_size": 512}}))
    result = CliRunner().invoke(app, ["plan", str(config)])
    assert isinstance(result.exception, ConfigError) and "trains nothing" in str(result.exception)


@pytest.mark.parametrize("name", ["illada-8b", "llada-8b"])
def test_wrong_vocabulary_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="vocab_size"):
        workflow(name, "data.tokenizer.vocab_size=50000")
