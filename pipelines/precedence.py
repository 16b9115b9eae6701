"""Which of several duplicates is kept: a number of each document, the least of a group stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def moment(date: str) -> float:
    """Seconds from 1970 to an ISO 8601 date (UTC unless it says otherwise); infinite when it is empty or none."""
    try:
        value = datetime.fromisoformat(date)
    except ValueError:
        return math.inf
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


Numbers = npt.NDArray[np.float64]

PRECEDENCE: Mapping[str, Callable[[pa.Table], Numbers]] = {
    "first": lambda documents: np.zeros(documents.num_rows),
    "oldest": lambda documents: np.array([moment(date) for date in documents["date"].to_pylist()], dtype=np.float64),
    "longest": lambda documents: -pc.utf8_length(documents["text"]).to_numpy().astype(np.float64),
    "quality": lambda documents: -documents["quality"].to_numpy(),
}
"""By `data.deduplicate.keep`, of the rows of a table; the order of the documents decides between equal numbers."""
