"""What attention costs when windows are packed: its time against the sum of squared segment lengths.

Core attention of the model, forward and backward, on one window cut into equal segments, into one long and many short
ones, and not at all. Time is processor time of one thread, the least of several rounds that go through all cuts in
turn; beside it the same time by a straight line through all of them, seconds = a + b x sum of squares.

    python benchmarks/segments.py --to out/bench/segments.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from illada.artifacts import write_json
from illada.model.attention import attend, spans


def main() -> None:
    """Measure and print one JSON object; also write it to --to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("window", 4096), ("heads", 8), ("kv-heads", 2), ("head-dim", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cuts = _cuts(options.window)
    seconds = {name: float("inf") for name in cuts}
    for _ in range(options.rounds):
        for name, ends in cuts.items():
            seconds[name] = min(seconds[name], _seconds(options, ends))
    squares = {name: sum((b - a) ** 2 for a, b in pairwise(ends)) for name, ends in cuts.items()}
    slope, rest = np.polyfit(list(squares.values()), list(seconds.values()), 1)
    result = {
        **{name: value for name, value in vars(options).items() if name != "to"},
        "cuts": {
            name: {
                "segments": len(ends) - 1,
                "squares": squares[name] / options.window**2,
                "seconds": seconds[name],
                "by_the_line": slope * squares[name] + rest,
                "time": seconds[name] / seconds["whole"],
            }
            for name, ends in cuts.items()
        },
        "correlation": float(np.corrcoef(list(squares.values()), list(seconds.values()))[0, 1]),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))
    if options.to:
        write_json(options.to, result)


def _cuts(window: int) -> dict[str, list[int]]:
    """Boundaries by name: in equal parts, at a quarter, at three quarters with the rest in sixteenths."""
    equal = {f"{parts} equal": [window * part // parts for part in range(parts + 1)] for parts in (2, 4, 8, 16, 32)}
    return {
        "whole": [0, window],
        **equal,
        "a quarter": [0, window // 4, window],
        "one long, four short": [0, *(window * part // 16 for part in range(12, 17))],
    }


def _seconds(options: argparse.Namespace, ends: list[int]) -> float:
    generator = torch.Generator().manual_seed(0)
    operands = [
        torch.randn(options.window, 1, heads, options.head_dim, generator=generator, requires_grad=True)
        for heads in (options.heads, options.kv_heads, options.kv_heads)
    ]
    found = spans(torch.tensor([ends]), options.window, 0, options.window)
    started = time.process_time()
    attend(*operands, found).sum().backward()
    return time.process_time() - started


if __name__ == "__main__":
    main()
