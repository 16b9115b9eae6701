"""Drives a run: a DBOS workflow whose steps are stages, under a lease, continued from whatever state it was left in.

One generic workflow is registered under a fixed name; the graph it runs is looked up in this process by run id, so
graphs may be closures. DBOS keeps the cursor (which steps finished) and the artifact store keeps the work: when the
recorded steps no longer fit, the run is gone through again as a new workflow ("generation") and every artifact that
still fits is reused.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer, SetWorkflowID
from dbos import error as dbos_error
from sqlalchemy.exc import SQLAlchemyError

from illada.artifacts import StageInterrupted, canonical_json
from illada.durable.database import out_of_reach
from illada.durable.errors import (
    RunBusy,
    RunInterrupted,
    StageFailed,
    describe,
    full_traceback,
    is_transient,
    root_cause,
)
from illada.durable.events import record_event
from illada.durable.lease import Lease
from illada.durable.progress import Listener, StageStatus, forget_pending_stages, reset_stages
from illada.durable.runs import Run, RunRegistry
from illada.durable.stages import StageOutcome, StageRunner, StaleHistory

__all__ = [
    "Graph",
    "Listener",
    "RunBusy",
    "RunInterrupted",
    "StageFailed",
    "StageOutcome",
    "StageRunner",
    "StageStatus",
    "execute",
]

Graph = Callable[[StageRunner], Mapping[str, Any]]

APPLICATION = "illada"
EXIT_STOP_IGNORED = 75
_HISTORY_VERSION = 1  # raised when recorded steps of older drivers can no longer be continued
_STOP_GRACE_SECONDS = 3.0  # `illada cancel` promises five to the end of the last process
_LAST_WORDS_SECONDS = 1.0
_SAME_SIGNAL_SECONDS = 1.0  # a terminal, a shell and `ray job stop` may each pass on one and the same request


class _Execution:
    """One passage of one run through its graph, on a DBOS thread."""

    def __init__(self, runner: StageRunner, graph: Graph) -> None:
        self.runner = runner
        self.graph = graph
        self.finished = threading.Event()
        self.result: dict[str, Any] = {}
        self.error: BaseException | None = None

    def __call__(self) -> dict[str, Any]:
        try:
            self.result = dict(self.graph(self.runner))
            canonical_json(self.result)  # what a run returns is kept: refuse early what cannot be
            return self.result
        except StageInterrupted as error:
            self.error = dbos_error.DBOSWorkflowCancelledError(str(error))
            raise self.error from error
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.finished.set()


_executions: dict[str, _Execution] = {}


@DBOS.workflow(name="illada-run", max_recovery_attempts=None)
def _workflow(run_id: str) -> dict[str, Any]:
    return _executions[run_id]()


def execute(
    run: Run,
    engine: sa.Engine,
    graph: Graph,
    *,
    prepare: Callable[[], None] | None = None,
    listener: Listener | None = None,
    notice: Callable[[str], None] | None = None,
    guard: Callable[[Run], None] | None = None,
    ttl: float = 15.0,
    wait: float = 20.0,
) -> Mapping[str, Any]:
    """Take `run` from where it is to its end; returns what `graph` returns (JSON).

    New: starts. Killed: finished steps are replayed, the interrupted one runs again. Failed: the failed step runs
    again. Stopped: continues. Finished: goes through the graph once more, verifying and reusing every artifact.

    `prepare` is called before the first stage that has to be built: for what builds need and a look at finished work
    does not, such as the Ray cluster (`Cluster.start`). `listener` hears every stage's progress, `notice` gets lines
    for people. SIGINT and SIGTERM stop the run cleanly, a second one at once. `guard` gets the run as registered once
    its lease is held, and raises to leave it alone. An outage of the database shorter than `ttl` is ridden out; `wait`
    is how long to wait for another driver's lease. One call at a time in a process.

    However it ends, no job drives the run any more (`wanted`) unless another one may go on with it: then a node, a
    worker or the network was lost.

    Raises:
        RunBusy: another driver holds the run.
        RunInterrupted: it was stopped or cancelled; run it again to continue.
        StageFailed: a stage raised; carries the cause. Errors outside any stage come as they are.
        DatabaseError: the run database went away for longer than `ttl`; nothing is recorded.
    """
    registry = RunRegistry(engine)
    with Lease(engine, run.run_id, ttl=ttl, wait=wait, on_wait=notice) as lease:
        update = partial(lease.persist, registry.update, run.run_id)
        known = lease.persist(registry.get, run.run_id)
        if guard is not None:
            guard(known)
        run = replace(run, generation=known.generation, rebuild=known.rebuild)
        record = partial(record_event, engine, run.run_id, epoch=lease.epoch)
        driver = f"process {os.getpid()} on {socket.gethostname()}"
        if known.status == "running":
            record("taken over", f"{driver}; the driver before it ended without a word")
        else:
            record("started", driver)
        update(
            config_yaml=run.config_yaml,
            store=run.store,
            argv=json.dumps(list(run.argv)),
            status="running",
            failed_stage=None,
            error=None,
        )
        try:
            with _signals(lease):
                result = _drive(_Driver(run, engine, registry, lease, prepare, listener), graph)
        except RunInterrupted as error:
            update(status=_stopped(lease), wanted=False)
            record("cancelled" if error.cancelled else "interrupted")
            raise
        except SQLAlchemyError as error:
            raise out_of_reach(engine, error) from error
        except Exception as error:
            stage = error.stage if isinstance(error, StageFailed) else None
            cause = error.cause if isinstance(error, StageFailed) else root_cause(error)
            over = {} if is_transient(cause) else {"wanted": False}
            update(status="failed", failed_stage=stage, error=describe(cause), **over)
            record("failed", f"stage {stage}: {describe(cause)}" if stage else full_traceback(error))
            raise
        lease.persist(forget_pending_stages, engine, run.run_id)
        update(status="finished", result=json.dumps(result), wanted=False, rebuild=None)
        record("finished")
        return result


def _stopped(lease: Lease) -> str:
    return "cancelled" if lease.cancelled else "interrupted"


class _Driver:
    """What one driver holds of a run; `run.generation` advances when the recorded history cannot be continued."""

    def __init__(
        self,
        run: Run,
        engine: sa.Engine,
        registry: RunRegistry,
        lease: Lease,
        prepare: Callable[[], None] | None,
        listener: Listener | None,
    ) -> None:
        self.run = run
        self.engine = engine
        self.registry = registry
        self.lease = lease
        self.prepare = prepare
        self.listener = listener

    def execution(self, graph: Graph) -> _Execution:
        """A fresh passage, found by the registered workflow under the run's id."""
        execution = _Execution(StageRunner(self.run, self.engine, self.lease, self.prepare, self.listener), graph)
        _executions[self.run.run_id] = execution
        return execution

    def next_generation(self) -> None:
        """Go through the graph from its start as a new workflow: artifacts that still fit are found and reused."""
        self.run = replace(self.run, generation=self.run.generation + 1)
        self.lease.persist(self.registry.update, self.run.run_id, generation=self.run.generation)
        self.lease.persist(reset_stages, self.engine, self.run.run_id)
        self._start()

    def begin(self) -> None:
        """Start the workflow, or set its present state going again."""
        workflow = self.run.workflow_id
        status = DBOS.get_workflow_status(workflow)
        if status is None:
            self._start()
        elif status.app_version != _application_version(self.run.run_id):
            DBOS.cancel_workflow(workflow)  # no effect on a finished one
            self.next_generation()
        elif status.status in ("PENDING", "ENQUEUED"):
            return  # a killed driver's: DBOS.launch has taken it up
        elif again := self._steps(lambda step: step["function_name"] in self.run.rebuild):
            self.lease.persist(reset_stages, self.engine, self.run.run_id, self.run.rebuild)
            DBOS.rewind_workflow(workflow, start_step=again[0])
        elif status.status == "ERROR" and (failed := self._steps(lambda step: step["error"] is not None)):
            DBOS.rewind_workflow(workflow, start_step=failed[0])
        elif status.status in ("ERROR", "SUCCESS"):
            self.next_generation()
        else:
            DBOS.resume_workflow(workflow)

    def _steps(self, chosen: Callable[[Any], bool]) -> list[int]:
        """Numbers of the recorded steps that are `chosen`, ascending."""
        return [step["function_id"] for step in DBOS.list_workflow_steps(self.run.workflow_id) if chosen(step)]

    def abandon(self) -> NoReturn:
        """End this process although a build is at work that does not listen, and the run with it in good order."""

        def say() -> None:
            status = _stopped(self.lease)
            self.registry.update(self.run.run_id, status=status, wanted=False)
            record_event(self.engine, self.run.run_id, status, "the stage did not listen", epoch=self.lease.epoch)
            DBOS.cancel_workflow(self.run.workflow_id)
            self.lease.release()

        last = threading.Thread(target=say, daemon=True)  # the database may not answer, and that is not waited for
        last.start()
        last.join(_LAST_WORDS_SECONDS)
        _exit(EXIT_STOP_IGNORED, f"run {self.run.run_id}: the stage did not stop within {_STOP_GRACE_SECONDS:.0f} s")

    def _start(self) -> None:
        with SetWorkflowID(self.run.workflow_id):
            DBOS.start_workflow(_workflow, self.run.run_id)


def _drive(driver: _Driver, graph: Graph) -> Mapping[str, Any]:
    run_id = driver.run.run_id
    assert not _executions, "one run at a time in a process"
    execution = driver.execution(graph)
    try:
        with _dbos(driver.engine, run_id):
            driver.begin()
            while True:
                _await(execution, driver)
                if execution.error is None:
                    _settle(driver.run.workflow_id)
                    return execution.result
                if isinstance(execution.error, dbos_error.DBOSWorkflowCancelledError):
                    DBOS.cancel_workflow(driver.run.workflow_id)
                    raise RunInterrupted(run_id, cancelled=driver.lease.cancelled)
                _settle(driver.run.workflow_id)
                if not isinstance(execution.error, StaleHistory):
                    raise execution.error
                record_event(
                    driver.engine, run_id, "gone through again", str(execution.error), epoch=driver.lease.epoch
                )
                execution = driver.execution(graph)
                driver.next_generation()
    finally:
        del _executions[run_id]


def _await(execution: _Execution, driver: _Driver) -> None:
    """Until the graph has returned or raised. A build that ignores a request to stop is not waited for for long."""
    deadline = None
    while not execution.finished.wait(0.1):
        if driver.lease.stop.is_set():
            deadline = deadline or time.monotonic() + _STOP_GRACE_SECONDS
            if time.monotonic() > deadline:
                driver.abandon()


def _settle(workflow_id: str) -> None:
    """Until DBOS has recorded the outcome, which it does right after the graph returns."""
    while True:
        status = DBOS.get_workflow_status(workflow_id)
        if status is not None and status.status not in ("PENDING", "ENQUEUED"):
            return
        time.sleep(0.005)


@contextlib.contextmanager
def _dbos(engine: sa.Engine, run_id: str) -> Iterator[None]:
    # Executor and version carry the run id, so that no driver recovers or dequeues another run's workflow.
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": engine.url.render_as_string(hide_password=False),
            "sys_db_pool_size": 5,
            "application_version": _application_version(run_id),
            "executor_id": run_id,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "CRITICAL",  # what fails is reported by us, once, without DBOS's wrapping
            "notification_listener_polling_interval_sec": 0.2,  # closing waits for this long
        }
    )
    try:
        DBOS.launch()
        yield
    finally:
        DBOS.destroy()


def _application_version(run_id: str) -> str:
    return f"{_HISTORY_VERSION}:{run_id}"


@contextlib.contextmanager
def _signals(lease: Lease) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to stop; the second one ends the process, which loses no finished work either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    heard = float("-inf")

    def handle(number: int, _: Any) -> None:
        nonlocal heard
        if lease.stop.is_set() and time.monotonic() - heard > _SAME_SIGNAL_SECONDS:
            _exit(128 + number, f"run {lease.run_id}: ended at once")
        if not lease.stop.is_set():
            heard = time.monotonic()
        lease.stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(code: int, why: str) -> NoReturn:
    print(f"illada: {why}; resume it to continue", file=sys.stderr, flush=True)
    os._exit(code)
