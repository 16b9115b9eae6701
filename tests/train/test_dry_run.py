"""Ranks built without memory against really built ones, and the plan against both."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from train_helpers import MODEL, TRAINING, placement
from train_ranks import job, on_ranks
from typer.testing import CliRunner

from illada.cli.main import app
from illada.config import WorkflowConfig, load_config
from illada.model.arithmetic import parameters
from illada.train import dry_run, memory
from illada.train.dry_run import PlanError
from illada.train.fake_ranks import Built, build
from illada.train.job import Job

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "workflows"
DEMO = CONFIGS / "demo.yaml"
LAYOUTS: list[tuple[dict[str, int], str]] = [
    ({"tensor": 2, "pipeline": 2}, "bfloat16"),
    ({"data": 2}, "float32"),
    ({"tensor": 2, "context": 2}, "float32"),
    ({"pipeline": 2, "virtual": 2, "data": 2}, "bfloat16"),
]
FOUR_LAYERS = MODEL.model_copy(update={"layers": 4})


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """Where ranks are built: one process for all tests, as what it does to torch stays in it."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def demo(process: ProcessPoolExecutor) -> tuple[WorkflowConfig, dict[str, Built]]:
    config = load_config(DEMO, WorkflowConfig)
    return config, {
        stage: process.submit(build, config.model, training, layout).result()
        for stage, training, layout in dry_run._stages(config)
    }


def write_sizes(task: Job, folder: str) -> None:
    """What this rank of a real group holds, in bytes, counted from its tensors."""
    import torch.distributed as dist

    from illada.model.megatron import build_modules
    from illada.train.parallel import DTYPES, initialise_groups, wrap

    initialise_groups(task.placement)
    modules = build_modules(task.model, dtype=DTYPES[task.training.dtype])
    wrapped = wrap(modules, task.training)
    buffers = [buffer for chunk in wrapped.ddp for buffer in chunk.buffers]
    inner = wrapped.optimizer.optimizer
    wrapped.optimizer.init_state_fn(inner, wrapped.optimizer.config)
    main = [part for group in inner.param_groups for part in group["params"]]
    state = [value for entry in inner.state.values() for value in entry.values()]
    if task.training.dtype == "bfloat16":  # in float32 the main weights are the weights
        state += main
    sizes = {
        "parameters": sum(parameter.numel() for module in modules for parameter in module.parameters()),
        "weights": sum(buffer.param_data.nbytes for buffer in buffers),
        "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
        "optimizer": sum(value.nbytes for value in state),
    }
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(sizes))


@pytest.mark.parametrize(
    ("ranks", "dtype"),
    [LAYOUTS[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in LAYOUTS[1:])],
)
def test_ranks_hold_what_real_ones_hold(
    ranks: dict[str, int], dtype: Any, process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    layout, training = placement(**ranks), TRAINING.model_copy(update={"dtype": dtype})
    built = process.submit(build, FOUR_LAYERS, training, layout).result()
    task = job(tmp_path / "work", tmp_path, layout, training=training, model=FOUR_LAYERS)
    on_ranks(task, write_sizes, str(tmp_path))
    assert built.parameters == parameters(FOUR_LAYERS).total
    assert [rank.pipeline_stage for rank in built.ranks] == list(range(layout.pipeline))
    for rank in built.ranks:
        real = json.loads((tmp_path / f"{rank.pipeline_stage * layout.ranks // layout.pipeline}.json").read_text())
        held = {name: getattr(rank, name) for name in ("parameters", "weights", "gradients")}
        assert held == {name: real[name] for name in held}
        assert rank.optimizer == pytest.approx(real["optimizer"], rel=0.001)


def test_the_plan_is_what_is_built(demo: tuple[WorkflowConfig, dict[str, Built]]) -> None:
    config, built = demo
    dry_run.check(config, built)
    reports = dry_run.reports(config, built)
    assert [(report.stage, report.pipeline_stage, report.ranks) for report in reports] == [
        (stage, rank, 2) for stage in ("pretrain", "sft") for rank in (0, 1)
    ]
    for report in reports:
        *parts, total = report.parts
        assert total.name == "total" and total.built == sum(part.built for part in parts)
        assert abs(total.difference) < 0.02 and all(part.built > 0 for part in parts)


def test_activations_do_not_depend_on_cuda_being_there(process: ProcessPoolExecutor) -> None:
    """By hand, one layer more in one rank: what `layer_activations` counts, and statistics of attention and norms."""
    deeper = MODEL.model_copy(update={"layers": MODEL.layers + 1})
    few, many = (
        process.submit(build, model, TRAINING, placement()).result().ranks[0].activations for model in (MODEL, deeper)
    )
    tokens = 2 * TRAINING.window
    assert many - few == tokens * 4 * (memory.layer_activations(MODEL, 1) + MODEL.heads + 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"tensor": 4}, "kv_heads 2 cannot be divided over 4 ranks"), ({"pipeline": 4}, "layers 2 cannot be divided")],
)
def test_a_layout_that_does_not_divide_the_model(
    changes: dict[str, int], message: str, process: ProcessPoolExecutor
) -> None:
    with pytest.raises(ValueError, match=message):
        process.submit(build, MODEL, TRAINING, placement(**changes)).result()


def test_a_wrong_plan_is_noticed(
    demo: tuple[WorkflowConfig, dict[str, Built]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, built = demo
    right = memory.layer_activations
    monkeypatch.setattr(memory, "layer_activations", lambda *shape: 0.9 * right(*shape))
    with pytest.raises(PlanError, match=r"pretrain: activations of pipeline stage 0 differ by \+1\d\.\d%"):
        dry_run.check(config, built)
    monkeypatch.setattr(memory, "layer_activations", right)
    monkeypatch.setattr(dry_run, "rank_parameters", lambda model, layout, stage: 200_000)
    with pytest.raises(PlanError, match="stage 1 has 200,160 parameters, planned are 200,000"):
        dry_run.check(config, built)
    monkeypatch.undo()
    more = {stage: dataclasses.replace(made, parameters=made.parameters + 96) for stage, made in built.items()}
    with pytest.raises(PlanError, match="hold 603,072 parameters together, planned are 602,976"):
        dry_run.check(config, more)


def test_command(demo: tuple[WorkflowConfig, dict[str, Built]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "build_ranks", lambda config: demo[1])
    result = CliRunner().invoke(app, ["plan", str(DEMO), "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    first = json.loads(result.stdout)["dry_run"][0]
    assert (first["stage"], first["pipeline_stage"], first["parameters"]) == ("pretrain", 0, 200_064)
    total = first["parts"]["total"]
    assert total["difference"] == pytest.approx(total["built"] / total["planned"] - 1)
    shown = CliRunner().invoke(app, ["plan", str(DEMO), "--dry-run"]).stdout
    assert "sft, pipeline stage 1: 2 ranks" in shown and "activations" in shown
    monkeypatch.setattr(memory, "layer_activations", lambda *shape: 1.0)
    failed = CliRunner().invoke(app, ["plan", str(DEMO), "--dry-run"])
    assert failed.exit_code == 1 and "the plan is not what would be built" in str(failed.exception)
    assert "difference" in failed.stdout  # the figures are printed all the same


@pytest.mark.slow
@pytest.mark.parametrize("name", ["illada-8b", "llada-8b"])
def test_8b_ranks_are_as_planned(name: str) -> None:
    """Through the process that the command starts."""
    config = load_config(
        CONFIGS / f"{name}.yaml", WorkflowConfig, ["placement.sft.pipeline=4", "placement.sft.data=32"]
    )
    built = dry_run.build_ranks(config)
    dry_run.check(config, built)
    assert [len(made.ranks) for made in built.values()] == [1, 4]
    for report in dry_run.reports(config, built):
        assert abs(report.parts[-1].difference) < 0.01
