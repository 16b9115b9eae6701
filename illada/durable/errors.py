"""What can stop a run, and how the real cause is found under the wrappers of Ray and DBOS."""

from __future__ import annotations

import difflib
import operator
import re
import sys
import traceback
from collections.abc import Sequence

from illada.artifacts import DamagedWork
from illada.artifacts.provenance import redact

_LONGEST_LINE = 500
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_RAY_ADVICE = re.compile(r"\s*Some common causes include:.*", re.DOTALL)  # the same paragraph whatever happened
_RAY_ACTOR = re.compile(r"\s*class_name: .*?\sip: \S+", re.DOTALL)


class RunBusy(ValueError):
    """Another driver holds the run."""


class RunInterrupted(Exception):
    """The run was stopped on request and can be resumed; nothing finished is lost."""

    def __init__(self, run_id: str, cancelled: bool) -> None:
        super().__init__(f"run {run_id} was {'cancelled' if cancelled else 'interrupted'}")
        self.run_id = run_id
        self.cancelled = cancelled


class StageFailed(Exception):
    """A stage raised. `cause` is the real exception, also set as ``__cause__``."""

    def __init__(self, stage: str, cause: BaseException) -> None:
        super().__init__(f"stage {stage} failed: {describe(cause)}")
        self.stage = stage
        self.cause = cause


def root_cause(error: BaseException) -> BaseException:
    """The exception under any number of Ray task errors and exhausted DBOS retries."""
    ray_error = _loaded("ray.exceptions", "RayTaskError")
    retries_error = _loaded("dbos", "error.DBOSMaxStepRetriesExceeded")
    while True:
        inner: BaseException | None = None
        if ray_error is not None and isinstance(error, ray_error):
            inner = getattr(error, "cause", None)
        elif retries_error is not None and isinstance(error, retries_error):
            inner = next(reversed(getattr(error, "errors", [])), None)
        if inner is None:
            return error
        error = inner


def describe(error: BaseException) -> str:
    """One line for people: our own errors speak for themselves, others are named by their type.

    Notes that say where it happened are kept; Ray's advice, process ids and colours are not, nor are passwords.
    """
    text = _ANSI.sub("", str(error))
    module = type(error).__module__
    named = module.startswith(("illada.", "pipelines.", "workflows.")) and bool(text)
    if module.startswith("ray."):
        remote = _last_line(text)
        text, named = (remote, True) if remote else (text.partition("\nObject store memory usage")[0], False)
    text = " ".join(_RAY_ACTOR.sub("", _RAY_ADVICE.sub("", text)).split())
    if not named:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    places = [note for note in getattr(error, "__notes__", []) if "\n" not in note]
    if places:
        text += f" ({'; '.join(places)})"
    text = redact([text])[0]
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 3]}..."


def nearest(name: str, known: Sequence[str], what: str) -> str:
    """For the end of a message about a name that does not exist: what may have been meant, or what there is."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"known {what}: {', '.join(known[:10]) or 'none'}"


def full_traceback(error: BaseException) -> str:
    """Everything that is known of an error, over many lines: remote tracebacks and notes too."""
    text = "".join(traceback.format_exception(error)).strip()
    return redact([_ANSI.sub("", text)])[0]


def _last_line(text: str) -> str | None:
    """What a remote traceback inside Ray's message ends with: "ValueError: the real message"."""
    lines = text.strip().splitlines()
    return lines[-1] if any(line.startswith('  File "') for line in lines) else None


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: lost nodes, actors and workers of Ray, network trouble, work that was damaged.

    Never bad input.
    """
    error = root_cause(error)
    names = (
        "NodeDiedError", "LocalRayletDiedError", "ActorDiedError", "ActorUnavailableError", "WorkerCrashedError",
        "OutOfMemoryError", "ObjectLostError", "RpcError",
    )  # fmt: skip
    lost = tuple(kind for name in names if (kind := _loaded("ray.exceptions", name)) is not None)
    return isinstance(error, (*lost, ConnectionError, TimeoutError, DamagedWork))


def _loaded(module: str, name: str) -> type | None:
    """A class of a heavy library, if that library is in use at all: an error of its can only exist then."""
    loaded = sys.modules.get(module)
    return operator.attrgetter(name)(loaded) if loaded is not None else None
