"""Which of several duplicates is kept: a number of each document, the least of a group stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pipelines.documents import TextDocument


def moment(date: str) -> float:
    """Seconds from 1970 to an ISO 8601 date (UTC unless it says otherwise); infinite when it is empty or none."""
    try:
        value = datetime.fromisoformat(date)
    except ValueError:
        return math.inf
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


PRECEDENCE: Mapping[str, Callable[[TextDocument], float]] = {
    "first": lambda document: 0.0,
    "oldest": lambda document: moment(document.date),
    "longest": lambda document: -float(len(document.text)),
    "quality": lambda document: -document.quality,
}
"""By `data.deduplicate.keep`; the order of the documents decides between equal numbers."""
