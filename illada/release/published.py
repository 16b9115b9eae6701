"""Published results of models of this kind and of the autoregressive model they are compared with.

iLLaDA: arXiv 2606.25331; LLaDA: arXiv 2502.09992; Dream: arXiv 2508.15487; Qwen2.5: arXiv 2412.15115. In percent, as
printed in the iLLaDA report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsTable:
    """One row of scores per model, in the order of `benchmarks`."""

    title: str
    benchmarks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


BASE = ResultsTable(
    title="Base models",
    benchmarks=("MMLU", "BBH", "ARC-C", "HellaSwag", "GSM8K", "MATH", "HumanEval", "MBPP", "average"),
    rows=(
        ("iLLaDA 8B", (74.8, 71.3, 60.8, 76.6, 81.9, 38.4, 50.0, 57.8, 63.9)),
        ("LLaDA 8B", (65.9, 49.7, 45.9, 70.5, 70.3, 31.4, 35.4, 40.0, 51.1)),
        ("Dream 7B", (69.5, 57.9, 59.8, 73.3, 77.2, 39.6, 57.9, 56.2, 61.4)),
        ("Qwen2.5 7B", (71.9, 63.9, 51.5, 79.0, 78.9, 41.1, 56.7, 63.6, 63.3)),
    ),
)
INSTRUCT = ResultsTable(
    title="Instruct models",
    benchmarks=("MMLU", "MMLU-Pro", "MMLU-Redux", "GSM8K", "MATH", "HumanEval", "MBPP", "average"),
    rows=(
        ("iLLaDA 8B", (71.6, 52.3, 76.4, 89.0, 56.7, 65.9, 58.0, 67.1)),
        ("LLaDA 8B", (65.5, 37.0, 68.9, 77.5, 42.2, 49.4, 41.0, 54.5)),
        ("Dream 7B", (67.0, 43.3, 76.3, 81.0, 39.2, 55.5, 58.8, 60.2)),
        ("Qwen2.5 7B", (76.6, 56.3, 75.7, 91.6, 75.5, 84.8, 79.2, 77.1)),
    ),
)
