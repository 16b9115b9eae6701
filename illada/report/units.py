"""Figures as people read them: counts, bytes, durations, shares. A dash stands for what is not known."""

from __future__ import annotations

import datetime

UNKNOWN = "–"
NARROW = "\u202f"  # narrow no-break space: between a number and its unit, and between thousands


def count(value: float | None) -> str:
    """12345 -> "12 345"."""
    return UNKNOWN if value is None else f"{value:,.0f}".replace(",", NARROW)


def short_count(value: float | None) -> str:
    """1310720 -> "1.31 M"; below ten thousand the number itself."""
    if value is None:
        return UNKNOWN
    if abs(value) < 10_000:
        return count(value)
    return _scaled(value, 1000.0, ("", "k", "M", "B", "T"))


def size(value: float | None) -> str:
    """Bytes, decimal: 12300000 -> "12.3 MB"."""
    return UNKNOWN if value is None else _scaled(value, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"))


def duration(seconds: float | None) -> str:
    """0.4 -> "0.4 s", 75 -> "1 min 15 s", 7260 -> "2 h 1 min"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f}{NARROW}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NARROW}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW}min {whole % 60}{NARROW}s"
    if whole < 2 * 86400:
        return f"{whole // 3600}{NARROW}h {whole % 3600 // 60}{NARROW}min"
    return f"{whole // 86400}{NARROW}d {whole % 86400 // 3600}{NARROW}h"


def percent(part: float | None, whole: float | None) -> str:
    """Share of `whole`: "12.3 %"; a dash when either is unknown or the whole is nothing."""
    if part is None or not whole:
        return UNKNOWN
    share = 100 * part / whole
    if 0 < share < 0.05:
        return f"<{NARROW}0.1{NARROW}%"
    return f"{share:.1f}{NARROW}%" if share < 99.95 else f"100{NARROW}%"


def decimal(value: float | None, digits: int = 3) -> str:
    """A plain decimal number with a true minus sign."""
    return UNKNOWN if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def moment(seconds: float | None) -> str:
    """Seconds since the epoch -> "2026-11-24 01:50 UTC"."""
    if seconds is None:
        return UNKNOWN
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    index = 0
    while abs(value) >= 999.5 and index < len(units) - 1:
        value, index = value / step, index + 1
    if index == 0:
        text = f"{value:.0f}"
    else:
        text = f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
    return f"{text}{NARROW}{units[index]}".rstrip(NARROW)
