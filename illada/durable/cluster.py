"""The Ray cluster a run works on, and plain functions run on it as tasks with live progress.

A task streams its progress back as a Ray generator: no extra actor, no call per update. The function runs on a thread
of the task; the task's own thread looks at what it reports twice a second and yields what is new.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from illada.artifacts import Attempt, Progress, StageInterrupted
from illada.config import ConfigError, Placement
from illada.durable.errors import root_cause
from illada.durable.jobs import is_loopback
from illada.durable.watchdog import Watchdog

T = TypeVar("T")

_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_STOP_GRACE_SECONDS = 1.5
_LONGEST_TEMPORARY_PATH = 40  # Ray's sockets live about 60 characters below it; the kernel allows 107 in all


class Cluster:
    """The placement's Ray cluster, or an embedded one; `start` connects at the first need, leaving the context stops.

    Going through a finished run needs no cluster, and starting one takes seconds.
    """

    def __init__(self, placement: Placement, on_nodes: Callable[[int], None] | None = None) -> None:
        """`on_nodes` hears how many nodes the cluster has, at first and whenever that changes."""
        self.placement = placement
        self.on_nodes = on_nodes
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._started = False

    def __enter__(self) -> Self:
        """Does not connect yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect; an embedded cluster ends."""
        self._open.close()
        self._started = False

    def start(self) -> None:
        """Connect, or start the embedded cluster, and watch it. Once; any thread, which may end before the cluster.

        The kernel kills Ray's processes when the thread that started them ends: theirs lives until the context is left.

        Raises:
            ConfigError: no cluster answers at `placement.ray_address`.
        """
        with self._lock:
            if self._started:
                return
            import ray

            with contextlib.ExitStack() as opened:
                keeper = opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="ray-keeper"))
                opened.callback(ray.shutdown)
                keeper.submit(_initialise, self.placement).result()
                opened.enter_context(Watchdog(on_nodes=self.on_nodes))
                self._open = opened.pop_all()
            self._started = True


@contextlib.contextmanager
def connect(placement: Placement) -> Iterator[Cluster]:
    """A Cluster that is connected from the start."""
    with Cluster(placement) as cluster:
        cluster.start()
        yield cluster


def _initialise(placement: Placement) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if placement.ray_address is not None:
        _require_authentication(placement.ray_address)
        try:
            _require_answer(placement.ray_address)
            ray.init(address=placement.ray_address, **quiet)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"placement.ray_address {placement.ray_address}: no Ray cluster answers there "
                f"({' '.join(str(error).split())})"
            ) from None
        return
    # The node manager looks for its object store once before the store can be up, then sleeps this long (default 1 s).
    os.environ.setdefault("RAY_raylet_client_connect_timeout_milliseconds", "50")
    os.environ.setdefault("RAY_raylet_client_num_connect_attempts", "400")
    for attempts_left in (2, 1, 0):
        try:
            ray.init(
                address="local",  # never join somebody else's cluster by accident
                num_cpus=placement.ray_cpus,
                object_store_memory=placement.object_store_mb * 2**20,
                include_dashboard=False,
                _temp_dir=_short_temporary_folder(),
                **quiet,
            )
            break
        except Exception as error:  # Ray raises nothing more special, after 30 s that cannot be set
            if "timed out during startup" not in str(error):
                raise
            if not attempts_left:
                raise RuntimeError(
                    "Ray did not start within 30 s, three times: this machine is busy; run the same command again"
                ) from error
    found = ray.cluster_resources()
    _check_capacity(placement, float(found.get("CPU", 0)), float(found.get("memory", 0)))


def _require_authentication(address: str) -> None:
    """Ray asks for no token unless told to, and then anybody who reaches a node may run code there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal() and not is_loopback(host.strip("[]")) and "RAY_AUTH_MODE" not in os.environ:
        raise ConfigError(
            f"placement.ray_address {address} is not this machine: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to "
            "the file that holds the cluster's token (RAY_AUTH_MODE=disabled to go without one on a network you trust)"
        )


def _require_answer(address: str) -> None:
    """OSError at once where nobody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _check_capacity(placement: Placement, cpus: float, memory: float) -> None:
    """A stage that asks for more than the embedded cluster has, `memory` in bytes, would wait for ever."""
    data, pretrain, sft = placement.data, placement.pretrain, placement.sft
    for needed, what in (
        (data.workers * data.cpus_per_worker, "data.workers x cpus_per_worker"),
        (pretrain.ranks * pretrain.cpus_per_rank, "pretrain: tensor x pipeline x data x cpus_per_rank"),
        (sft.ranks * sft.cpus_per_rank, "sft: tensor x pipeline x data x cpus_per_rank"),
    ):
        if needed > cpus:
            raise ConfigError(
                f"placement.{what} = {needed:g} CPUs, the embedded Ray has {cpus:g}; "
                "lower the one or raise the other (placement.ray_cpus)"
            )
    if data.workers * (data.memory_gb or 0) * 1e9 > memory:
        raise ConfigError(
            f"placement.data.workers x memory_gb = {data.workers * (data.memory_gb or 0):g} GB, the embedded Ray has "
            f"{memory / 1e9:.1f} GB of memory to give; lower the one or the other"
        )


def run_remote(
    function: Callable[..., T], *arguments: Any, progress: Progress, num_cpus: float = 1, **keywords: Any
) -> T:
    """``function(*arguments, progress=..., **keywords)`` in one Ray task; its progress arrives at `progress` here.

    An `Attempt` among the arguments is one for the task's node: what is built there is uploaded from there.

    Raises whatever the function raises, unwrapped. When `progress` is asked to stop, the function hears of it at its
    next update; one that does not listen is killed.
    """
    import ray

    key = f"illada-stop-{uuid.uuid4().hex}".encode()
    stream = (
        ray.remote(_task)
        .options(num_cpus=num_cpus, max_retries=0, num_returns="streaming", name=getattr(function, "__name__", "task"))
        .remote(key, function, arguments, keywords)
    )
    done = 0.0
    try:
        while True:
            ready, _ = ray.wait([stream], timeout=_POLL_SECONDS, fetch_local=False)
            if not ready:
                progress.update(done)
                continue
            kind, value = ray.get(next(stream))
            if kind == "result":
                result: T = value
                return result
            if kind == "start":
                progress.start(*value)
                done = 0.0
            else:
                done, figures = value
                progress.update(done, **figures)
    except ray.exceptions.RayError as error:
        cause = root_cause(error)
        if cause is error:
            raise
        raise cause from error  # whose text is the traceback of the task
    except BaseException:
        _stop(stream, key)
        raise


class _TaskProgress:
    """The Progress inside a task: keeps the latest state for the task's thread to send."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.news = threading.Event()
        self._lock = threading.Lock()
        self._started: tuple[float | None, str] | None = None
        self._updated: tuple[float, dict[str, float | str]] | None = None

    def start(self, total: float | None, unit: str) -> None:
        with self._lock:
            self._started, self._updated = (total, unit), None

    def update(self, done: float, **figures: float | str) -> None:
        with self._lock:
            self._updated = (done, {**(self._updated[1] if self._updated else {}), **figures})
        if self.stop.is_set():
            raise StageInterrupted("the run was asked to stop")

    def take(self) -> Iterator[tuple[str, Any]]:
        """What is new since the last call."""
        with self._lock:
            started, updated = self._started, self._updated
            self._started = self._updated = None
        if started is not None:
            yield "start", started
        if updated is not None:
            yield "update", updated


def _task(
    key: bytes, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Iterator[Any]:
    from ray.experimental.internal_kv import _internal_kv_exists

    progress = _TaskProgress()
    outcome: dict[str, Any] = {}

    def body() -> None:
        try:
            with contextlib.ExitStack() as here:
                given = [here.enter_context(item.here()) if isinstance(item, Attempt) else item for item in arguments]
                outcome["result"] = function(*given, progress=progress, **keywords)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=body, name="task-body", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        yield from progress.take()
        if _internal_kv_exists(key):
            progress.stop.set()
    yield from progress.take()
    if "error" in outcome:
        raise outcome["error"]
    yield "result", outcome["result"]


def _stop(stream: Any, key: bytes) -> None:
    """Ask the task to stop, wait for its function to clean up behind itself, and kill it when it does not.

    Ray's own cancellation is no way to ask: it returns before the function has ended.
    """
    import ray
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    _internal_kv_put(key, b"")
    deadline = time.monotonic() + _STOP_GRACE_SECONDS
    try:
        while time.monotonic() < deadline:
            ready, _ = ray.wait([stream], timeout=_POLL_SECONDS, fetch_local=False)
            if ready:
                ray.get(next(stream))
    except (StopIteration, ray.exceptions.RayError):
        return
    finally:
        _internal_kv_del(key)
    ray.cancel(stream, force=True)


def _short_temporary_folder() -> str | None:
    """None for Ray's default, or another place when that would make its socket paths too long for the kernel."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return None if len(folder) <= _LONGEST_TEMPORARY_PATH else f"{os.sep}tmp{os.sep}ray-{os.getuid()}"
