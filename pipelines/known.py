"""Extends the signature index by what the documents of one refresh have brought, in ranges of keys over the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from illada.artifacts import Attempt, write_json
from pipelines.fates import Fresh
from pipelines.index import INDEX, KEY_BYTES, SignatureIndex, index_value, part_bits, part_name, tables
from pipelines.phases import Phases


def extend_index(
    index: SignatureIndex, fresh: Mapping[str, Fresh], documents: int, phases: Phases, attempt: Attempt
) -> dict[str, int]:
    """Put a segment of the new keys, and of the older segments it takes the place of, into the output.

    Returns {"documents", "segments", "merged", "bytes"} of the index as it is then.
    """
    merged = index.mergeable(documents)
    replaced = index.segments[len(index.segments) - merged :]
    payloads = [
        payload
        for table in tables(index.config)
        for payload in _parts(table, fresh[table], merged, sum(old.rows(table) for old in replaced))
    ]
    results = phases.run("index", "index", payloads)
    parts: dict[str, list[int]] = {}
    for payload, result in zip(payloads, results, strict=True):
        rows = parts.setdefault(payload["table"], [])
        result.adopt("part.npy", attempt, part_name(payload["table"], len(rows)))
        rows.append(result.statistics["rows"])
    segment: dict[str, Any] = {"documents": documents + sum(old.documents for old in replaced), "parts": parts}
    older = index.without_newest(merged)
    identity = attempt.identity
    write_json(attempt.output / INDEX, index_value(older, identity.stage, identity.fingerprint, segment))
    keys = sum(map(sum, parts.values())) + sum(old.rows(table) for old in older.segments for table in parts)
    return {
        "documents": segment["documents"] + older.documents,
        "segments": len(older.segments) + 1,
        "merged": merged,
        "bytes": keys * KEY_BYTES,
    }


def _parts(table: str, fresh: Fresh, merged: int, rows: int) -> list[dict[str, Any]]:
    """Payloads of `pipelines.index.build_part`, each with the files whose ranges touch its own."""
    bits = part_bits(rows + fresh.rows)
    payloads = []
    for prefix in range(2**bits):
        first, last = (end << fresh.bits >> bits for end in (prefix, prefix + 1))
        files = fresh.files[first : max(first + 1, last)]
        payloads.append({"table": table, "bits": bits, "prefix": prefix, "merged": merged, "fresh": files})
    return payloads
