"""Whom a group that stands still waits for, by what its ranks told last; and who is slow."""

from __future__ import annotations

import dataclasses
import time

import pytest

from illada.train.pulse import Beat, Place, blame
from illada.train.straggler import Stopwatch, slowest, summary


def beat(step: int, place: Place, age: float = 0.0) -> Beat:
    return Beat(step=step, place=place, node=f"node{step}", time=1e9 - age, last=True)


def told(beats: dict[int, Beat]) -> str:
    reason = blame(beats, [], 10.0)
    assert reason is not None
    return reason


def test_one_that_tells_nothing_is_to_blame_wherever_it_was() -> None:
    beats = {0: beat(7, "computing"), 1: beat(7, "reducing", age=9.0), 2: beat(7, "reducing", age=2.0)}
    assert blame(beats, [1], 10.0) == "silent for 10 s or longer: rank 1 on node7, reducing after step 7"


def test_one_that_is_behind_is_to_blame() -> None:
    beats = {0: beat(7, "reducing"), 1: beat(7, "computing"), 2: beat(7, "reducing")}
    assert "while the others waited: rank 1 on node7, computing after step 7" in told(beats)
    beats[3] = beat(6, "reducing", age=3.0)
    assert "waited: rank 3 on node6, reducing after step 6" in told(beats)
    saving = {0: beat(10, "saving"), 1: beat(10, "computing")}
    assert "waited: rank 0 on node10, saving after step 10" in told(saving)


def test_all_at_one_place() -> None:
    reason = told({rank: beat(0, "computing") for rank in range(9)})
    assert reason.startswith("all 9 ranks stood still for 10 s") and "rank 3 on" in reason and "rank 4 on" not in reason
    assert reason.endswith("and 5 more ranks")


def test_a_group_that_ended_otherwise_blames_nobody() -> None:
    moving = {rank: dataclasses.replace(beat(7, "computing"), last=False) for rank in range(2)}
    assert blame(moving, [], 10.0) is None
    assert blame({0: beat(7, "reducing")}, [1], 10.0) is None, "it froze before it told anything"
    assert blame({}, [], 10.0) is None


def test_a_beat_is_sent_and_read() -> None:
    assert Beat.from_bytes(beat(3, "saving").to_bytes()) == beat(3, "saving")


def test_stragglers() -> None:
    assert slowest([1.0, 4.0, 2.0]) == {"median": 2.0, "slowest": 4.0, "rank": 1}
    steps = [[1.0, 2.0, 1.0], [1.0, 3.0, 1.0], [2.0, 1.0, 2.0], [1.0, 2.0, 1.0]]
    found = summary([{"compute": slowest(seconds)} for seconds in steps])
    assert found == {"rank": 1, "share": 0.75, "slowest_over_median": pytest.approx((2 + 3 + 1 + 2) / 4)}
    assert summary([{"compute": slowest([0.0, 0.0])}])["slowest_over_median"] == 1.0


def test_stopwatch() -> None:
    watch = Stopwatch()
    watch.start()
    time.sleep(0.01)
    watch.stop()
    time.sleep(0.05)
    assert 0.01 <= watch.seconds() < 0.05
