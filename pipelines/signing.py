"""What of each document decides about duplicates, as arrays over the rows of a table (`pipelines.blocks.columns`)."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from illada.config import Deduplicate
from pipelines.addresses import normal_url
from pipelines.documents import utf8
from pipelines.minhash import MinHasher
from pipelines.precedence import PRECEDENCE

SIGNED = ["text", "url", "language", "date", "quality"]
"""The columns that are looked at."""


def sign(documents: pa.Table, config: Deduplicate, hasher: MinHasher) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `columns` for a table with the columns `SIGNED`."""
    data, starts = utf8(documents["text"])
    comparable, bands = hasher.keys(data, starts, documents["language"].to_pylist())
    view, ends = data.data, starts.tolist()
    arrays: dict[str, npt.NDArray[Any]] = {
        "sizes": np.diff(starts),
        "digests": _keys([hashlib.sha256(view[a:b]).digest() for a, b in itertools.pairwise(ends)]),
        "precedence": PRECEDENCE[config.keep](documents),
        "comparable": comparable,
        "bands": bands,
    }
    if config.urls:
        urls = documents["url"].to_pylist()
        arrays["located"] = np.array([bool(url) for url in urls], dtype=np.bool_)
        arrays["urls"] = _keys([hashlib.sha256(normal_url(url).encode()).digest() for url in urls])
    return arrays


def _keys(digests: list[bytes]) -> npt.NDArray[np.uint64]:
    """The first 128 bits of each digest of 32 bytes, as two words."""
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 4)[:, :2].astype(np.uint64)
