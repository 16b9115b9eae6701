"""One id, one configuration."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from illada.artifacts import fingerprint
from illada.durable.runs import RunConflict, RunRegistry, UnknownRun

IDENTITY = {"model": {"layers": 4, "heads": 2}, "sources": [{"name": "web"}, {"name": "code"}], "steps": 10}


def test_created_run_reads_back(engine: sa.Engine) -> None:
    run = RunRegistry(engine).create("demo", "name: demo\n", IDENTITY, "store", ["illada", "run"])
    assert run == RunRegistry(engine).get("demo")
    assert (run.identity, run.fingerprint, run.argv) == (IDENTITY, fingerprint(IDENTITY), ("illada", "run"))
    assert (run.status, run.generation, run.workflow_id) == ("created", 1, "demo")


def test_equal_identity_is_the_same_run_whatever_its_placement(engine: sa.Engine) -> None:
    registry = RunRegistry(engine)
    first = registry.create("demo", "workers: 2\n", IDENTITY, "store", ["one"])
    reordered = dict(reversed(IDENTITY.items()))
    second = registry.create("demo", "workers: 4\n", reordered, "elsewhere", ["two"])
    assert (second.created, second.fingerprint) == (first.created, first.fingerprint)
    assert (second.config_yaml, second.store, second.argv) == ("workers: 4\n", "elsewhere", ("two",))
    assert registry.get("demo").config_yaml == "workers: 2\n", "recorded by the driver, once it holds the run"


def test_other_identity_is_a_conflict_that_names_what_differs(engine: sa.Engine) -> None:
    registry = RunRegistry(engine)
    registry.create("demo", "", IDENTITY, "store", [])
    changed = {
        "model": {"layers": 8, "heads": 2},
        "sources": [{"name": "web"}, {"name": "books"}],
        "steps": 10,
        "new": None,
    }
    with pytest.raises(RunConflict) as caught:
        registry.create("demo", "", changed, "store", [])
    text = str(caught.value)
    assert fingerprint(IDENTITY)[:12] in text
    assert fingerprint(changed)[:12] in text
    assert 'model.layers: 4 -> 8; new is new; sources[1].name: "code" -> "books"' in text
    assert "--run-id" in text


def test_conflict_lists_a_few_differences_only(engine: sa.Engine) -> None:
    registry = RunRegistry(engine)
    registry.create("demo", "", {str(key): 0 for key in range(20)}, "store", [])
    with pytest.raises(RunConflict, match="and 15 more"):
        registry.create("demo", "", {str(key): 1 for key in range(20)}, "store", [])


def test_passwords_on_the_command_line_are_not_kept(engine: sa.Engine) -> None:
    argv = [
        "illada",
        "run",
        "--database",
        "postgresql://me:s3cr3t:@x@db.example/illada",
        "--ray=auto",
        "a://b",
        "x:y@z",
    ]
    registry = RunRegistry(engine)
    for run in (registry.create("demo", "", IDENTITY, "store", argv), registry.get("demo")):
        assert run.argv[3] == "postgresql://me:***@db.example/illada"
        assert run.argv[:3] + run.argv[4:] == (*argv[:3], *argv[4:])


def test_unknown_run_names_the_nearest(engine: sa.Engine) -> None:
    registry = RunRegistry(engine)
    with pytest.raises(UnknownRun, match="known runs: none"):
        registry.get("demo")
    for name in ("demo-large", "nightly"):
        registry.create(name, "", {"name": name}, "store", [])
    with pytest.raises(UnknownRun, match="no run 'demo-lagre'; did you mean demo-large\\?"):
        registry.get("demo-lagre")
    with pytest.raises(UnknownRun, match="known runs: nightly, demo-large"):
        registry.get("zzz")


def test_list_has_the_latest_touched_first(engine: sa.Engine) -> None:
    registry = RunRegistry(engine)
    for name in ("one", "two", "three"):
        registry.create(name, "", {"name": name}, "store", [])
    registry.update("one", status="running")
    assert [run.run_id for run in registry.list()] == ["one", "three", "two"]
