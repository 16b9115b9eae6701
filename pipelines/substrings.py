"""Stage `substrings`: text that is word for word somewhere before in the corpus is cut, or its document dropped.

A window of `length` bytes is repeated when the first place with the same bytes lies at least `length` bytes before it.
Which windows are, does not depend on how the work is cut:

    find      a file: a suffix array over each block of it finds the windows repeated within the block. Of all others
              the least hash among the shorter windows inside (winnowing: Schleimer, Wilkerson, Aiken, SIGMOD 2003) is
              kept: equal windows have equal ones, and they are few
    keys      a range of these hashes: which of them more than one block has
    windows   a file: the hashes, 122 bits, of the windows that have one of those
    later     a range of these: which are equal to an earlier window
    cut       a file: documents without what repeats

With one block the three in the middle are left out. Each unit holds one file, one block or one range.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import DataPlacement, Substrings
from pipelines.documents import document_files, row_groups
from pipelines.exchange import range_bits, share_folders
from pipelines.funnel import Tally, main_losses, merge
from pipelines.pool import ActorPool, Results, Unit
from pipelines.repeats import SubstringsWorker
from pipelines.shared import Reference

STAGE = "substrings"
SUBSTRINGS_VERSION = 1

_KEYS_PER_BYTE = 0.1  # of a compressed file: fewer than that are expected


def substrings(
    config: Substrings, documents: Artifact, attempt: Attempt, placement: DataPlacement, progress: Progress
) -> dict[str, Any]:
    """Build the documents without repeated text.

    Returns statistics: funnel, languages, sources, damaged (always empty), and of documents kept `cut_documents`,
    `cuts` and `cut_bytes`.

    Raises:
        ValueError: nothing is left.
    """
    files = document_files(documents)
    weights = [sum(groups) for groups in row_groups(files, attempt.work)]
    sizes = {str(file["name"]): int(file["bytes"]) for file in documents.record["files"]}

    with ActorPool(functools.partial(SubstringsWorker, config), placement) as pool:

        def over_files(task: str, more: Sequence[dict[str, Any]]) -> Results:
            units = [
                Unit(name=f"{n:06d}", payload={"task": task, "number": n, "file": file.reference, **one}, weight=weight)
                for n, (file, weight, one) in enumerate(zip(files, weights, more, strict=True))
            ]
            return pool.run(units, attempt.work / task, progress, "documents")

        def over_ranges(task: str, bits: int, source: Reference) -> Results:
            payload = {"task": task, "files": len(files), "source": source}
            units = [Unit(name=f"{part:06d}", payload={**payload, "part": part}) for part in range(2**bits)]
            return pool.run(units, attempt.work / task, progress, "ranges")

        bits = range_bits(_KEYS_PER_BYTE * sum(sizes[file.name] for file in files))
        found = over_files("find", [{"bits": bits}] * len(files))
        local: list[dict[str, Any]] = [{"local": {"url": str(r.folder), "sha256": r.files["local.npy"]}} for r in found]
        if sum(result.statistics["blocks"] for result in found) > 1:
            keys = over_ranges("keys", bits, share_folders(found, "find", attempt))
            shared = share_folders(keys, "keys", attempt)
            # a key is that of half as many windows as can have it, on average
            bits = range_bits(sum(result.statistics["shared"] for result in keys) * config.length / 4)
            windows = over_files("windows", [{**one, "bits": bits, "keys": shared} for one in local])
            later = over_ranges("later", bits, share_folders(windows, "windows", attempt))
            local = [{**one, "later": share_folders(later, "later", attempt)} for one in local]
        written = over_files("cut", local)

    statistics = _statistics(written)
    if not sum(result.statistics["documents"] for result in written):
        raise ValueError(f"no document is left without repeated text: {main_losses(statistics['funnel'])}")
    for kind in ("documents", "rejected"):
        filled = (result for result in written if result.statistics[kind])
        for number, result in enumerate(filled):
            result.adopt(f"{kind}.parquet", attempt, f"{kind}/{number:05d}.parquet")
    return statistics


def _statistics(written: Results) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    for result in written:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
    return {
        "funnel": merge(result.statistics["funnel"] for result in written),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "damaged": [],
        **{name: sum(result.statistics[name] for result in written) for name in ("cut_documents", "cuts", "cut_bytes")},
    }
