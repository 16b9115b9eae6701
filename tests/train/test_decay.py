"""The decay that an event begins: on all ranks at the same step, once, and again after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from train_helpers import TRAINING, placement, published, run_stage, trace
from train_ranks import job, on_ranks, wait_for_checkpoints

from illada.artifacts import Folder
from illada.config import Plateau, Schedule
from illada.train import loop, stepper
from illada.train.checkpoint import FOLDER
from illada.train.decay import Horizon, Watch, horizon, request
from illada.train.job import Job

SCHEDULE = TRAINING.schedule
PLANNED = Horizon(total_steps=20, decay_steps=6)


def asked(task: Job, dies_at: int | None = None) -> None:
    """The loop, in which somebody asks for a decay over four steps after update 8, and which may die."""
    sound = stepper.step_row

    def step_row(*arguments: Any, step: int, **figures: Any) -> dict[str, Any]:
        if step == 8 and task.epoch == 0:
            request(task.work, 4)
        if step == dies_at:
            raise RuntimeError("power cut")
        return sound(*arguments, step=step, **figures)

    stepper.step_row = step_row  # type: ignore[assignment]
    wait_for_checkpoints()
    loop.run(task)


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("asked")
    on_ranks(job(work, shards, placement(2)), asked)
    return work


def test_a_request_ends_the_stage_on_all_ranks(uninterrupted: Path) -> None:
    """Asked after update 8, told with update 9, decaying from update 10 on."""
    rows = trace(uninterrupted / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 14))
    assert {row["lr"] for row in rows[3:9]} == {SCHEDULE.peak}
    rates = [row["lr"] for row in rows[8:]]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(SCHEDULE.minimum)
    assert len(set(rates)) == 5
    events = [json.loads(line) for line in (uninterrupted / "events.jsonl").read_text().splitlines()]
    (event,) = (event for event in events if event["event"] == "decay")
    assert (event["step"], event["over"], event["reason"]) == (9, 4, "requested")
    manifest = json.loads((published(uninterrupted / FOLDER)[-1] / "checkpoint.json").read_text())
    assert manifest["step"] == 13 and manifest["horizon"]["total_steps"] == 13


@pytest.mark.parametrize("step", [9, 12])
def test_killed_and_resumed_decays_at_the_same_step(
    uninterrupted: Path, shards: Path, tmp_path: Path, step: int
) -> None:
    """Killed as soon as it is decided, and after the first checkpoint since: nobody has to ask again."""
    layout = placement(2, checkpoint_steps=5)
    with pytest.raises(Exception, match="power cut"):
        on_ranks(job(tmp_path, shards, layout), asked, step)
    (tmp_path / "decay-request.json").unlink()
    on_ranks(job(tmp_path, shards, layout, epoch=1))
    assert trace(tmp_path / "metrics.jsonl") == trace(uninterrupted / "metrics.jsonl")


def test_what_is_asked_while_it_stands_still_counts_when_it_goes_on(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="power cut"):
        on_ranks(job(tmp_path, shards, placement(checkpoint_steps=5)), asked, 8)
    on_ranks(job(tmp_path, shards, placement(checkpoint_steps=5), epoch=1))
    assert len(trace(tmp_path / "metrics.jsonl")) == 5 + 1 + 4


def test_a_plateau_begins_the_decay(shards: Path, tmp_path: Path) -> None:
    """With a rate of nearly nothing the loss stays; the first look after warmup sees it. The whole stage says so."""
    still = Schedule(
        peak=1e-12, minimum=0, warmup_steps=2, decay="linear", decay_fraction=0.1,
        plateau=Plateau(window=20, fall=0.5, false_alarm=0.5),
    )  # fmt: skip
    training = TRAINING.model_copy(update={"steps": 50, "schedule": still})
    on_ranks(job(tmp_path / "work", shards, placement(), training=training))
    output, statistics = run_stage(tmp_path, shards, placement(), training=training)  # publishes it
    assert statistics["decay"] == {"step": 23, "reason": "plateau"}
    assert statistics["steps"] == 28 == len(trace(output / "metrics.jsonl"))


def test_what_is_asked_too_late_or_for_too_long(tmp_path: Path) -> None:
    work = Folder.at(tmp_path)
    watch = Watch(TRAINING, work, [])
    assert watch.wanted(5, PLANNED) == (0, 0)
    request(work, 100)
    assert watch.wanted(5, PLANNED) == (100, 2)
    assert watch.wanted(14, PLANNED) == (0, 0)  # it decays as planned already
    begun = PLANNED.begin(6, 100, "requested")
    assert (begun.total_steps, begun.start) == (20, 6)  # never longer than planned
    assert watch.wanted(7, begun) == (0, 0)  # once is enough
    with pytest.raises(ValueError, match="at least one step"):
        request(work, 0)


def test_a_decision_is_found_in_the_folder_or_in_the_checkpoint(tmp_path: Path) -> None:
    begun = PLANNED.begin(6, 3, "plateau")
    assert horizon(Folder.at(tmp_path), None, PLANNED) == PLANNED
    assert horizon(Folder.at(tmp_path), PLANNED.to_json(), PLANNED) == PLANNED
    assert horizon(Folder.at(tmp_path), begun.to_json(), PLANNED) == begun


@pytest.mark.parametrize("change", [{"decay_fraction": 0.0}, {"drops": ({"after": 0.1, "rate": 5e-3},)}])
def test_a_plateau_needs_a_decay_to_begin(change: dict[str, Any]) -> None:
    plain = {**SCHEDULE.model_dump(), "plateau": {"window": 20, "fall": 0.01}}
    assert Schedule.model_validate(plain).plateau is not None
    with pytest.raises(ValueError, match="a plateau begins the decay"):
        Schedule.model_validate({**plain, **change})
