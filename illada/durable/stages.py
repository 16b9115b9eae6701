"""Runs one stage as one durable step: reuse the artifact of this identity, or build and publish it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from dbos import DBOS
from dbos import error as dbos_error

from illada.artifacts import Artifact, Attempt, Progress, StageIdentity, StageInterrupted, Store, newest_epoch
from illada.durable.errors import StageFailed, describe, full_traceback, is_transient, root_cause
from illada.durable.events import record_event
from illada.durable.lease import Lease, build_lease_id
from illada.durable.progress import Listener, StageProgress, read_stages
from illada.durable.rebuild import take_back
from illada.durable.runs import Run, RunRegistry

Build = Callable[[Attempt, Progress], Mapping[str, Any]]

_ATTEMPTS = 4  # of a step that fails for a transient reason
_RETRY_SECONDS = 2.0  # before the first repetition; then twice as long each time


class ForkMismatch(ValueError):
    """A stage of a fork that should be its parent's is another one."""


class StaleHistory(Exception):
    """The recorded steps no longer fit the code, the sources or the store; the run has to be gone through again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """What happened to one stage: `how` is built, reused (its artifact existed) or replayed (it finished earlier)."""

    stage: str
    fingerprint: str
    how: str
    seconds: float


class StageRunner:
    """Handed to a graph: every stage goes through `stage`. `stages` lists what happened, in order."""

    def __init__(
        self,
        run: Run,
        engine: sa.Engine,
        lease: Lease,
        prepare: Callable[[], None] | None,
        listener: Listener | None,
    ) -> None:
        self.run_id = run.run_id
        self._created = run.created
        self.epoch = lease.epoch
        self.store = Store(run.store)
        self.stages: list[StageOutcome] = []
        self.rebuild = set(run.rebuild)
        self._engine = engine
        self._lease = lease
        self._prepare = prepare
        self._listener = listener
        self._inherited = lease.persist(_inherited, engine, run)

    @property
    def passage(self) -> str:
        """Names this passage through the graph: the same after a kill, another when a finished run is run again.

        A run of the same name in another database (the old one may be lost) has passages of its own.
        """
        return f"{DBOS.workflow_id}/{self._created}"

    def stage(
        self,
        name: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        build: Build,
        placement: Mapping[str, Any] = {},
    ) -> Artifact:
        """The artifact of (name, version, config, inputs): found and verified, or built and published by `build`.

        Raises:
            ArtifactError: a stored artifact is damaged; says which file and the cure.
            StageFailed: `build` raised; carries the real cause.
        """
        if self._lease.should_stop():
            raise StageInterrupted(f"asked to stop before stage {name}")
        identity = StageIdentity(stage=name, version=version, config=config, inputs=inputs)
        expected = self._inherited.get(name, identity.fingerprint)
        if expected != identity.fingerprint:
            raise ForkMismatch(
                f"stage {name} is not that of the run this one was forked from (fingerprint {expected[:12]} there, "
                f"{identity.fingerprint[:12]} here): its sources or the code of a stage have changed since. To go on "
                "with them as they are now, start the configuration as a run of its own, under another --run-id"
            )
        step = _Step(self, identity, build, placement)
        try:
            result = DBOS.run_step(
                {
                    "name": name,
                    "retries_allowed": True,
                    "max_attempts": _ATTEMPTS,
                    "interval_seconds": _RETRY_SECONDS,
                    "should_retry": is_transient,
                },
                step,
            )
        except dbos_error.DBOSUnexpectedStepError as error:
            raise StaleHistory(str(error)) from None
        except Exception as error:
            cause = root_cause(error)
            step.progress.end("failed", error=describe(cause))
            step.record("failed", full_traceback(cause))
            raise StageFailed(name, cause) from cause
        artifact = step.artifact
        if artifact is None:
            artifact = self._replayed(identity, result)
            step.progress.announce()
        how = "replayed" if step.artifact is None else "reused" if result["reused"] else "built"
        self.stages.append(
            StageOutcome(stage=name, fingerprint=identity.fingerprint, how=how, seconds=float(result["seconds"]))
        )
        return artifact

    def _replayed(self, identity: StageIdentity, result: Mapping[str, Any]) -> Artifact:
        """The artifact of a step that finished before the run was stopped, opened again and verified."""
        if result["fingerprint"] != identity.fingerprint:
            raise StaleHistory(
                f"stage {identity.stage} was {result['fingerprint'][:12]}, now {identity.fingerprint[:12]}"
            )
        artifact = self.store.find(identity)
        if artifact is None:
            raise StaleHistory(f"artifact {identity.stage}/{identity.fingerprint[:12]} has vanished from the store")
        return artifact


def _inherited(engine: sa.Engine, run: Run) -> dict[str, str]:
    """Fingerprint of every stage that a fork has in common with its parent, as the parent went through it."""
    if run.parent is None:
        return {}
    stages = read_stages(engine, run.parent, live=True)
    names = [stage.stage for stage in stages]
    before = stages[: names.index(run.fork_stage)] if run.fork_stage in names else []
    return {stage.stage: stage.fingerprint for stage in before if stage.fingerprint}


class _Step:
    """The body of one step. Its result, which DBOS records, is small JSON; the artifact stays on this object."""

    def __init__(
        self, runner: StageRunner, identity: StageIdentity, build: Build, placement: Mapping[str, Any]
    ) -> None:
        self.runner = runner
        self.identity = identity
        self.build = build
        self.placement = placement
        self.artifact: Artifact | None = None
        self.record = partial(
            record_event, runner._engine, runner.run_id, stage=identity.stage, epoch=runner._lease.epoch
        )
        self._failures = 0
        self.progress = runner._lease.persist(
            StageProgress,
            runner._engine,
            runner.run_id,
            identity.stage,
            len(runner.stages),
            runner._lease.should_stop,
            runner._listener,
        )

    def __call__(self) -> dict[str, Any]:
        runner, progress = self.runner, self.progress
        began = time.monotonic()
        runner._lease.check()
        progress.begin(self.identity.fingerprint)
        if self.identity.stage in runner.rebuild:
            self._take_back()
        self.artifact = runner.store.find(self.identity)
        reused = self.artifact is not None
        if self.artifact is None:
            try:
                self.artifact, reused = self._build()
            except StageInterrupted as error:
                progress.end("stopped")
                self.record("stopped")
                raise dbos_error.DBOSWorkflowCancelledError(str(error)) from error
            except Exception as error:
                self._failures += 1
                if is_transient(error) and self._failures < _ATTEMPTS:
                    self.record("retry", f"try {self._failures} of {_ATTEMPTS} failed: {full_traceback(error)}")
                raise
        seconds = round(time.monotonic() - began, 3)
        progress.end("reused" if reused else "done", reused=reused)
        self.record("reused" if reused else "done", f"{self.identity.fingerprint[:12]} in {seconds:.1f} s")
        return {
            "stage": self.identity.stage,
            "fingerprint": self.identity.fingerprint,
            "reused": reused,
            "seconds": seconds,
        }

    def _take_back(self) -> None:
        runner, stage, fingerprint = self.runner, self.identity.stage, self.identity.fingerprint
        if take_back(runner._engine, runner.store, stage, fingerprint):
            self.record("taken back", fingerprint[:12])
        runner.rebuild.discard(stage)  # before it is built: a driver killed in that goes on where it was
        left = json.dumps(sorted(runner.rebuild)) if runner.rebuild else None
        runner._lease.persist(RunRegistry(runner._engine).update, runner.run_id, rebuild=left)

    def _wait_for_other_run(self) -> None:
        self.progress.update(0, waiting="another run builds this artifact")

    def _build(self) -> tuple[Artifact, bool]:
        """The artifact, and whether another run built it while this one waited for it."""
        if self.runner._prepare is not None:
            self.runner._prepare()
        store, run_lease = self.runner.store, self.runner._lease
        folder = store.folder(self.identity.stage, self.identity.fingerprint)
        # One builder at a time on all machines. Its epoch, not the run's, is what fences the work of an artifact that
        # several runs may build one after the other; what another database's runs left there counts too.
        build_lease = Lease(
            self.runner._engine,
            build_lease_id(folder),
            ttl=run_lease.ttl,
            owner=run_lease,
            patience=self._wait_for_other_run,
            above=max(run_lease.epoch - 1, newest_epoch(folder / "work") or 0),
        )
        waiting = self._wait_for_other_run
        with build_lease, store.attempt(self.identity, build_lease.epoch, on_wait=waiting, alone=True) as attempt:
            existing = store.find(self.identity)
            if existing is not None:
                return existing, True
            self.progress.attempt()
            self.record("attempt", f"{self.progress.status.attempt}")
            started = time.time()
            statistics = self.build(attempt, self.progress)
            run_lease.check()
            build_lease.check()
            return store.publish(attempt, statistics, self.placement, started), False
