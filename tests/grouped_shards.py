"""Token shards of several groups, as the tokenize stage writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from illada.artifacts import sha256_file
from illada.data.shards import document_batch, token_dtype, write_index, write_shard


def write_grouped(folder: Path, groups: Mapping[tuple[str, str], list[int]], vocab_size: int, length: int = 60) -> Path:
    """Shards of about so many tokens for each (source, language), of documents that count upwards."""
    folder.mkdir(parents=True)
    rng, shards = np.random.default_rng(0), []
    for (source, language), sizes in groups.items():
        for size in sizes:
            count = max(1, size // length)
            starts = rng.integers(7, vocab_size, count)
            tokens = [7 + (start + np.arange(length)) % (vocab_size - 7) for start in starts]
            batch = document_batch(
                tokens,
                ids=[f"{source}-{language}-{len(shards)}-{number}" for number in range(count)],
                sources=[source] * count,
                languages=[language] * count,
                sizes=[length] * count,
                dtype=token_dtype(vocab_size),
            )
            path = folder / f"shard-{len(shards):06d}.arrow"
            entry = write_shard(path, batch)
            group = {"source": source, "language": language}
            shards.append({"file": path.name, **entry, "sha256": sha256_file(path), **group})
    write_index(folder, vocab_size, shards)
    return folder
