"""Which of several failures explains that a group of ranks failed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from illada.artifacts import Folder
from illada.train import control, launch
from illada.train.checkpoint import FOLDER
from illada.train.errors import DivergedError, RankError
from illada.train.launch import describe

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


def test_failures_count_until_a_checkpoint_comes_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "read", lambda *_: None)  # Ray's control service: nobody asks to stop
    failures = launch._Failures(Folder.at(tmp_path), "key", most=2)
    for step in (1, 2, 3):
        (tmp_path / FOLDER / f"step-{step:08d}").mkdir(parents=True)
        failures.after_exception(None, {0: DIED})
        failures.after_exception(None, {0: DIED})
    with pytest.raises(RankError, match="rank 0 died"):
        failures.after_exception(None, {0: DIED})
