"""What `illada run` shows while it works: one line a stage, with rates, time left and the figures that matter."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from illada.durable.progress import StageStatus

_FIGURES = ("loss", "lr", "tokens_per_second", "kept", "quarantined", "nll_per_token")


def duration(seconds: float | None) -> str:
    """12 -> "12s", 75 -> "1m15s", 7300 -> "2h01m"; empty for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def amount(value: float | None) -> str:
    """A count in few characters: 950, 12.3k, 4.56M, 7.89B, 12T; empty for None."""
    if value is None:
        return ""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.0f}"


def byte_size(value: float) -> str:
    """Bytes in few characters, decimal units: 1.2 kB, 3.4 MB, 5.6 GB, 48 TB."""
    for limit, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def describe(status: StageStatus) -> str:
    """Progress inside a stage: "1,200 / 6,000 documents  310/s  16s left  loss 3.21"."""
    parts = []
    if status.done is not None and status.unit:
        total = f" / {amount(status.total)}" if status.total is not None else ""
        parts.append(f"{amount(status.done)}{total} {status.unit}")
    if status.state == "running":
        if status.rate:
            parts.append(f"{amount(status.rate) if status.rate >= 10 else f'{status.rate:.2g}'}/s")
        if status.eta is not None:
            parts.append(f"{duration(status.eta)} left")
    for name in _FIGURES:
        value = status.figures.get(name)
        if value is not None:
            label = "tok/s" if name == "tokens_per_second" else name.replace("_", " ")
            text = value if isinstance(value, str) else amount(value) if value >= 1000 else f"{value:.3g}"
            parts.append(f"{label} {text}")
    return "  ".join(parts)


class LiveStages:
    """A listener for the engine that keeps a live table on a terminal and plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=24),
            _Elapsed(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._progress.stop()

    def __call__(self, status: StageStatus) -> None:
        """Take one update."""
        with self._lock:
            if self.console.is_terminal:
                self._draw(status)
            elif self._states.get(status.stage) != status.state:
                self._print(status)
            self._states[status.stage] = status.state

    def _draw(self, status: StageStatus) -> None:
        if status.stage not in self._tasks:
            self._tasks[status.stage] = self._progress.add_task(status.stage, total=None, detail="", seconds=None)
        task = self._tasks[status.stage]
        over = status.state in ("done", "reused")
        total = 1.0 if over else status.total
        self._progress.update(
            task,
            total=total,
            completed=total if over else status.done or 0.0,
            detail=status.error if status.error else "reused" if status.state == "reused" else describe(status),
            seconds=status.seconds,
        )

    def _print(self, status: StageStatus) -> None:
        if status.state == "running":
            self.console.print(f"{status.stage} ...", highlight=False, markup=False)
        else:
            detail = status.error or describe(status)
            line = f"{status.stage}: {status.state} in {duration(status.seconds)}  {detail}".rstrip()
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class _Elapsed(ProgressColumn):
    """Seconds the stage took, or takes so far."""

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("seconds")
        return Text(f"{duration(task.elapsed if seconds is None else seconds):>7}")
