"""Which of several failures explains that a group of ranks failed, and what ends one that stands still."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from train_helpers import MODEL, TRAINING, placement

from illada.artifacts import Folder, claim
from illada.train import control, launch, rank
from illada.train.checkpoint import FOLDER
from illada.train.errors import DivergedError, RankError
from illada.train.job import Job
from illada.train.launch import describe
from illada.train.pulse import Beat, Pulse

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:8017")
DIED = RayActorError()


def test_an_error_explains_more_than_a_lost_peer(tmp_path: Path) -> None:
    cause = DivergedError("not finite")
    assert describe({0: LOST, 1: DIED, 2: cause, 3: LOST}, Folder.at(tmp_path)) is cause


def test_a_death_explains_more_than_a_lost_peer(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-00002.log").write_text("Fatal Python error: Segmentation fault\n")
    error = describe({0: LOST, 2: DIED, 3: LOST}, Folder.at(tmp_path))
    assert isinstance(error, RankError)
    assert "rank 2 died" in str(error) and "Segmentation fault" in str(error)


@pytest.mark.parametrize(
    ("error", "restart"),
    [
        (LOST, True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("the loader state belongs to another training run"), False),
        (KeyError("weight"), False),
    ],
)
def test_only_what_a_restart_may_cure_is_a_rank_error(error: Exception, restart: bool, tmp_path: Path) -> None:
    found = describe({0: error}, Folder.at(tmp_path))
    assert isinstance(found, RankError) if restart else found is error


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Instead of Ray's control service."""
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(control, "read", lambda key, what: kept.get(what))
    monkeypatch.setattr(control, "write", lambda key, what, value: kept.update({what: value}))
    monkeypatch.setattr(control, "forget", lambda key, what: kept.pop(what, None))
    monkeypatch.setattr(control, "names", lambda key, start: [name for name in kept if name.startswith(start)])
    return kept


@pytest.mark.usefixtures("values")
def test_failures_count_until_a_checkpoint_comes_between(tmp_path: Path) -> None:
    failures = launch._Failures(Folder.at(tmp_path), "key", most=2, hang_seconds=None)
    for step in (1, 2, 3):
        (tmp_path / FOLDER / f"step-{step:08d}").mkdir(parents=True)
        failures.after_exception(None, {0: DIED})
        failures.after_exception(None, {0: DIED})
    with pytest.raises(RankError, match="rank 0 died"):
        failures.after_exception(None, {0: DIED})


def test_a_loop_that_does_not_move_ends_its_process_and_is_named(
    shards: Path,
    tmp_path: Path,
    values: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """Rank 0 waits in a reduction for rank 1, which computes for ever; whoever notices first ends the attempt."""
    work = Folder.at(tmp_path)
    claim(work, 0)
    task = Job(
        training=TRAINING,
        model=MODEL,
        placement=placement(1, 1, 2, hang_seconds=8.0),
        shards=Folder.at(shards),
        initial=None,
        work=work,
        domain="pretrain",
        epoch=0,
    )
    now = [0.0]
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    values["beat-1"] = Beat(step=12, place="computing", node="far", time=time.time() - 2, last=False).to_bytes()
    pulse = Pulse(lambda: now[0])
    pulse.mark(12, "reducing")
    with pytest.raises(SystemExit):
        rank._watch(task, "key", 0, threading.Event(), pulse)
    assert 8 < now[0] < 9
    assert "in _watch" in capfd.readouterr().err, "where every thread was"
    failures = launch._Failures(work, "key", most=2, hang_seconds=8.0)
    failures.after_exception(None, {0: DIED})
    (event,) = [json.loads(line) for line in work.read_lines("events.jsonl")]
    assert event["event"] == "restart"
    assert event["reason"] == "stood still for 8 s while the others waited: rank 1 on far, computing after step 12"
    assert values == {}, "the next attempt begins with none"
    failures.after_exception(None, {0: DIED})
    assert "rank 0 died" in json.loads(list(work.read_lines("events.jsonl"))[1])["reason"]


def test_a_loop_that_starts_or_is_over_may_stand_still() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.mark(10, "starting")
    now[0] = 5.0
    assert not pulse.stands_still(4.0), "it may take long to read a checkpoint"
    pulse.mark(10, "computing")
    now[0] = 10.0
    assert pulse.stands_still(4.0) and not pulse.stands_still(6.0)
    pulse.mark(11, "saving")
    assert not pulse.stands_still(4.0)
    pulse.end()
    now[0] = 1e6
    assert not pulse.stands_still(4.0)
