"""The run registry: which configuration belongs to which run id, and how each run ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from illada.artifacts import canonical_json, fingerprint
from illada.artifacts.provenance import redact
from illada.durable.database import runs
from illada.durable.errors import nearest

_SHOWN_DIFFERENCES = 5


class RunConflict(ValueError):
    """The run id exists with another configuration."""


class UnknownRun(ValueError):
    """No such run id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run. `status`: created, running, finished, failed, interrupted or cancelled, as its last driver left it."""

    run_id: str
    config_yaml: str
    identity: Mapping[str, Any]
    fingerprint: str
    store: str
    argv: tuple[str, ...]
    created: float
    updated: float
    status: str
    generation: int
    failed_stage: str | None
    error: str | None
    result: Mapping[str, Any] | None
    address: str | None = None
    package: str | None = None
    wanted: bool = False
    jobs: int = 0
    job: str | None = None
    next_job: float = 0.0
    job_delay: float = 0.0
    nodes: int | None = None
    parent: str | None = None
    fork_stage: str | None = None
    rebuild: tuple[str, ...] = ()

    @property
    def workflow_id(self) -> str:
        """The DBOS workflow of the current generation: each repetition of a finished run is a new workflow."""
        return self.run_id if self.generation == 1 else f"{self.run_id}#{self.generation}"


class RunRegistry:
    """Runs by id."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def create(
        self,
        run_id: str,
        config_yaml: str,
        identity: Mapping[str, Any],
        store: str,
        argv: Sequence[str],
        **columns: Any,
    ) -> Run:
        """Register a run, or take up the one that has this id and an equal identity.

        `columns` are more of a new run's (`parent` and `fork_stage`).
        A run that exists comes back with the given placement (`config_yaml`, `store`, `argv`), which its next driver
        records once it holds the run.

        Raises:
            RunConflict: the id exists with another identity; names the keys that differ.
        """
        values = {**new_run(run_id, config_yaml, identity, store, argv), **columns}
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        with self.engine.begin() as connection:
            connection.execute(insert(runs).values(values).on_conflict_do_nothing())
            row = connection.execute(sa.select(runs).where(runs.c.run_id == run_id)).one()
        known = _run(row)
        if known.fingerprint != values["fingerprint"]:
            raise RunConflict(_conflict(known, identity, str(values["fingerprint"])))
        return replace(known, config_yaml=config_yaml, store=store, argv=tuple(redact(argv)))

    def get(self, run_id: str) -> Run:
        """The run of this id. Raises UnknownRun naming the nearest ids."""
        with self.engine.begin() as connection:
            row = connection.execute(sa.select(runs).where(runs.c.run_id == run_id)).one_or_none()
            if row is not None:
                return _run(row)
            known = list(connection.execute(sa.select(runs.c.run_id).order_by(runs.c.updated.desc())).scalars())
        raise UnknownRun(f"no run {run_id!r}; {nearest(run_id, known, 'runs')}")

    def list(self) -> list[Run]:
        """All runs, the latest touched first."""
        with self.engine.begin() as connection:
            return [_run(row) for row in connection.execute(sa.select(runs).order_by(runs.c.updated.desc()))]

    def update(self, run_id: str, **values: Any) -> None:
        """Set columns of a run's row: for its driver and for cancellation."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(updated=time.time(), **values))


def new_run(
    run_id: str, config_yaml: str, identity: Mapping[str, Any], store: str, argv: Sequence[str]
) -> dict[str, Any]:
    """The columns of a run that nothing has driven yet."""
    now = time.time()
    return {
        "run_id": run_id,
        "config_yaml": config_yaml,
        "identity": canonical_json(identity),
        "fingerprint": fingerprint(identity),
        "store": store,
        "argv": json.dumps(redact(argv)),
        "created": now,
        "updated": now,
        "status": "created",
        "generation": 1,
    }


def _run(row: sa.Row[Any]) -> Run:
    values = dict(row._mapping)
    values["identity"] = json.loads(values["identity"])
    values["rebuild"] = tuple(json.loads(values["rebuild"] or "[]"))
    values["argv"] = tuple(json.loads(values["argv"]))
    values["result"] = None if values["result"] is None else json.loads(values["result"])
    return Run(**values)


def _conflict(known: Run, identity: Mapping[str, Any], given: str) -> str:
    found = list(differences(known.identity, identity))
    shown = "; ".join(found[:_SHOWN_DIFFERENCES])
    if len(found) > _SHOWN_DIFFERENCES:
        shown += f"; and {len(found) - _SHOWN_DIFFERENCES} more"
    return (
        f"run {known.run_id!r} exists with another configuration (fingerprint {known.fingerprint[:12]}, "
        f"this one {given[:12]}): {shown}. Start it under another id: --run-id NAME, or another `name:`; "
        "what both have in common is reused"
    )


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Each dotted key whose value differs, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            inner = f"{where}.{key}" if where else key
            if key not in new or key not in old:
                yield f"{inner} is {'gone' if key in old else 'new'}"
            else:
                yield from differences(old[key], new[key], inner)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{where}[{index}]")
    elif old != new:
        yield f"{where}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
