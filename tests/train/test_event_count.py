"""Counting events while ranks work."""

from __future__ import annotations

from pathlib import Path

from illada.artifacts import Folder
from illada.train.events import EVENTS, EventCount, append_event


def test_counts_one_kind_as_events_come(tmp_path: Path) -> None:
    work = Folder.at(tmp_path)
    count, seldom = EventCount(work, "restart", every=0.0), EventCount(work, "restart")
    assert count() == seldom() == 0  # there is no file yet
    append_event(work, "start", step=0)
    append_event(work, "restart", reason="rank 1 died")
    assert count() == count() == 1
    append_event(work, "restart", reason="rank 0 died")
    append_event(work, "checkpoint", step=10)
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"event": "rest')  # another process is at it
    assert count() == 2
    with (tmp_path / EVENTS).open("a") as file:
        file.write('art"}\n')
    assert count() == 3
    assert EventCount(work, "restart")() == 3  # another driver
    assert seldom() == 0  # its minute is not over
