"""When a schedule is due: cron expressions in a time zone, as a pure function from an interval to its slots.

Summer time: a local time that a day skips is due at the first moment after the gap. A local time that a day has twice
is due the first time only, unless the expression says every hour (`*`): then it is due every hour that passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, CroniterError, croniter

from illada.config import ConfigError

_FIELDS = (5, 6)  # a sixth one is seconds
_NOT_FIXED = re.compile(r"(^|,)[hr](\(|/|,|$)", re.IGNORECASE)  # croniter's hashed and random fields


def check_cron(cron: str, timezone: str, now: float) -> None:
    """Raises ConfigError for an expression or time zone that does not exist, and an expression that never fires."""
    try:
        zone(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"timezone {timezone!r}: there is none of this name; write it as in Europe/Paris or UTC"
        ) from None
    fields = cron.split()
    aliased = len(fields) == 1 and fields[0].startswith("@")
    if not aliased and (len(fields) not in _FIELDS or any(_NOT_FIXED.search(field) for field in fields)):
        raise ConfigError(
            f"cron {cron!r}: write minute, hour, day of month, month, day of week, as in '0 3 * * *' for 3:00 every day"
        )
    try:
        next(slots_after(cron, timezone, now))
    except CroniterBadDateError:
        raise ConfigError(f"cron {cron!r} never fires: no date fits it") from None
    except (CroniterError, ValueError) as error:
        raise ConfigError(f"cron {cron!r}: {' '.join(str(error).split())}") from None


def slots_after(cron: str, timezone: str, after: float) -> Iterator[int]:
    """The slots later than `after`, in order, all in seconds since the epoch."""
    local = zone(timezone)
    moments = croniter(cron, datetime.fromtimestamp(after, local))
    every_hour = moments.expanded[1] == ["*"]
    while True:
        slot = int(moments.get_next(float))
        if every_hour or not datetime.fromtimestamp(slot, local).fold:
            yield slot


def zone(name: str) -> ZoneInfo:
    """The IANA time zone of this name."""
    return ZoneInfo(name)
