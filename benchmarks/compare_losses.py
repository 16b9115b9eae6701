"""Compare two loss traces (metrics.jsonl) step by step: bit for bit, or within a relative tolerance.

    python benchmarks/compare_losses.py out/a/metrics.jsonl out/b/metrics.jsonl --tolerance 1e-4

Exit code 0 when they agree, 1 when they do not; the first differing step and the largest difference are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

FIGURES = ("loss", "grad_norm", "lr", "masked_fraction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Largest relative difference of two traces, and where the first one over the tolerance is."""

    steps: int
    largest: float
    first: str | None


def compare(one: Path, other: Path, tolerance: float) -> Difference:
    """Compare two traces; relative differences are to the larger magnitude. ValueError when their steps differ."""
    rows, others = _read(one), _read(other)
    if [row["step"] for row in rows] != [row["step"] for row in others]:
        raise ValueError(f"{one} has {len(rows)} steps, {other} has {len(others)}, or they are numbered differently")
    largest, first = 0.0, None
    for row, twin in zip(rows, others, strict=True):
        for name in FIGURES:
            difference = _difference(row[name], twin[name])
            largest = max(largest, difference)
            if first is None and difference > tolerance:
                first = f"step {row['step']}: {name} {row[name]} against {twin[name]}"
    return Difference(steps=len(rows), largest=largest, first=first)


def main() -> int:
    """Print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative; 0 asks for equal bits")
    arguments = parser.parse_args()
    found = compare(arguments.one, arguments.other, arguments.tolerance)
    print(f"{found.steps} steps, largest relative difference {found.largest:.3g}")
    if found.first is not None:
        print(f"first over {arguments.tolerance:g}: {found.first}")
    return 0 if found.first is None else 1


def _read(path: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _difference(one: float | None, other: float | None) -> float:
    """Both None (a skipped step) is equal; one None is not."""
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return 0.0 if one == other else abs(one - other) / max(abs(one), abs(other))


if __name__ == "__main__":
    sys.exit(main())
