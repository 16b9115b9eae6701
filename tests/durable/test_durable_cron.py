"""Slots of a cron expression: the same whatever moment one asks from, also in the nights when clocks change."""

from __future__ import annotations

import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illada.durable.cron import slots_after


def local(cron: str, timezone: str, start: str, days: float) -> list[str]:
    """Slots after a local time, as local times with their offset."""
    zone = ZoneInfo(timezone)
    after = datetime.fromisoformat(start).replace(tzinfo=zone).timestamp()
    due = itertools.takewhile(lambda slot: slot <= after + days * 86_400, slots_after(cron, timezone, after))
    return [datetime.fromtimestamp(slot, zone).isoformat(timespec="minutes") for slot in due]


@pytest.mark.parametrize(
    ("cron", "timezone", "start", "expected"),
    [
        # Clocks go forward at 2:00: the time that is skipped is due at the first moment after the gap.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28", ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28", ["2026-03-28T03:00+01:00", "2026-03-29T03:00+02:00"]),
        # Clocks go back at 3:00: the time that comes twice is due the first time.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-10-25T01:00", [f"2026-10-{day}:00{offset}" for day, offset in (
            ("25T02", "+02:00"), ("25T04", "+01:00"), ("25T06", "+01:00"), ("25T08", "+01:00"), ("25T10", "+01:00"),
            ("25T12", "+01:00"), ("25T14", "+01:00"), ("25T16", "+01:00"), ("25T18", "+01:00"), ("25T20", "+01:00"),
            ("25T22", "+01:00"), ("26T00", "+01:00"))]),
        ("0 3 * * *", "UTC", "2026-03-28", ["2026-03-28T03:00+00:00", "2026-03-29T03:00+00:00"]),
        ("15 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["2026-04-05T01:15+11:00", "2026-04-06T01:15+10:30"]),
    ],
)  # fmt: skip
def test_nights_when_clocks_change(cron: str, timezone: str, start: str, expected: list[str]) -> None:
    assert local(cron, timezone, start, len(expected) if "*/" not in cron else 1)[: len(expected)] == expected


def test_every_hour_means_every_hour_that_passes() -> None:
    assert local("0 * * * *", "Europe/Berlin", "2026-10-25T01:30", 4 / 24) == [
        "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00", "2026-10-25T04:00+01:00",
    ]  # fmt: skip
    assert local("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", 3 / 24) == [
        "2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00",
    ]  # fmt: skip


def test_seconds() -> None:
    assert list(itertools.islice(slots_after("* * * * * */20", "UTC", 100.5), 3)) == [120, 140, 160]
    assert list(itertools.islice(slots_after("* * * * * *", "UTC", 100.9), 3)) == [101, 102, 103]


@given(
    cron=st.sampled_from(
        ["30 2 * * *", "*/30 * * * *", "0 */2 * * *", "30 1,2,3 * * *", "*/20 1-3 * * *", "0 2 * * sun", "@hourly"]
    ),
    timezone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    day=st.sampled_from(["2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"]),
    offset=st.floats(min_value=0, max_value=2 * 86_400),
)  # fmt: skip
def test_slots_do_not_depend_on_where_one_starts(cron: str, timezone: str, day: str, offset: float) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(timezone)).timestamp()
    whole = list(itertools.takewhile(lambda slot: slot <= start + 3 * 86_400, slots_after(cron, timezone, start)))
    assert whole == sorted(set(whole))
    late = itertools.takewhile(lambda slot: slot <= start + 3 * 86_400, slots_after(cron, timezone, start + offset))
    assert list(late) == [slot for slot in whole if slot > start + offset]
