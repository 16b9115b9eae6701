"""Small token shards with known content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from illada.data.shards import ShardWriter, TokenShards, document_batch, token_dtype

Documents = list[NDArray[np.int64]]


def random_documents(count: int, vocab_size: int = 500, longest: int = 90, seed: int = 0) -> Documents:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, rng.integers(2, longest)) for _ in range(count)]


def write_shards(
    folder: Path, documents: Documents, *, vocab_size: int = 500, shard_tokens: int = 1000, together: int = 7
) -> TokenShards:
    writer = ShardWriter(folder, vocab_size=vocab_size, shard_tokens=shard_tokens)
    for start in range(0, len(documents), together):
        part = documents[start : start + together]
        writer.add(
            document_batch(
                part,
                ids=[f"d{start + i}" for i in range(len(part))],
                sources=["web"] * len(part),
                languages=["en"] * len(part),
                sizes=[3 * len(tokens) for tokens in part],
                dtype=token_dtype(vocab_size),
            )
        )
    writer.close()
    return TokenShards.open(folder)


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., TokenShards]:
    """write_shards into a fresh folder each time."""
    made: list[Path] = []

    def make(documents: Documents, **options: int) -> TokenShards:
        made.append(tmp_path / f"shards{len(made)}")
        return write_shards(made[-1], documents, **options)

    return make


@pytest.fixture
def documents() -> Documents:
    return random_documents(300)
