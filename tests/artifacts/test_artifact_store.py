"""Artifacts are published once, completely or not at all, found again by identity, and checked when opened."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from illada.artifacts import Artifact, ArtifactError, Attempt, StageIdentity, Store, write_json
from illada.artifacts import store as store_module

IDENTITY = StageIdentity(stage="curate", version=1, config={"x": 1}, inputs={"web": "0" * 64})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def build(store: Store, identity: StageIdentity = IDENTITY, text: str = "hello") -> Artifact:
    """Publish an artifact of two files."""
    with store.attempt(identity, epoch=3) as attempt:
        write(attempt, text)
        return store.publish(attempt, {"documents": 1}, {"workers": 2}, time.time() - 5)


def write(attempt: Attempt, text: str = "hello") -> None:
    """Two files, one in a folder."""
    (attempt.output / "one").write_text(text)
    (attempt.output / "deep").mkdir()
    (attempt.output / "deep" / "two").write_text("there")


def other(**changes: Any) -> StageIdentity:
    """IDENTITY with something else in it."""
    fields = {"stage": "curate", "version": 1, "config": {"x": 1}, "inputs": {"web": "0" * 64}}
    return StageIdentity(**{**fields, **changes})


def test_published_artifact_is_found_by_identity_alone(store: Store) -> None:
    assert store.find(IDENTITY) is None
    built = build(store)
    found = store.find(IDENTITY)
    assert found == built
    assert (found.stage, found.fingerprint, found.names) == ("curate", IDENTITY.fingerprint, ["deep/two", "one"])
    assert found.path("deep/two").read_text() == "there"
    assert found.statistics == {"documents": 1}
    assert store.open("curate", IDENTITY.fingerprint) == store.open("curate", IDENTITY.fingerprint[:32]) == built
    for changed in (other(version=2), other(config={"x": 2}), other(inputs={}), other(stage="tokenize")):
        assert store.find(changed) is None


def test_record_says_where_the_artifact_comes_from(store: Store) -> None:
    record = build(store).record
    assert record["config"] == {"x": 1}
    assert record["inputs"] == {"web": "0" * 64}
    assert record["placement"] == {"workers": 2}
    assert record["epoch"] == 3
    assert 5 <= record["seconds"] < 100
    provenance = record["provenance"]
    assert len(provenance["code_sha256"]) == 64
    assert provenance["versions"]["dbos"]
    assert provenance["argv"]


def test_content_depends_on_the_files_only(store: Store) -> None:
    one, two = build(store), build(store, other(config={"x": 2}))
    assert one.content == two.content
    assert build(store, other(config={"x": 3}), text="bye").content != one.content


def test_unknown_names_and_artifacts(store: Store) -> None:
    artifact = build(store)
    with pytest.raises(ArtifactError, match=r"has no file 'three'; it has \['deep/two', 'one'\]"):
        artifact.path("three")
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.open("curate", "f" * 64)


def damage_byte(artifact: Artifact) -> Path:
    path = artifact.path("deep/two")
    path.write_text("thera")
    return path


def damage_length(artifact: Artifact) -> Path:
    path = artifact.path("one")
    os.truncate(path, 2)
    return path


def damage_presence(artifact: Artifact) -> Path:
    path = artifact.path("one")
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_byte, "its sha256 differs from its record"),
        (damage_length, "2 bytes, its record says 5"),
        (damage_presence, "missing from artifact curate/"),
    ],
)
def test_damaged_file_is_named_with_its_cure(store: Store, damage: Any, message: str) -> None:
    artifact = build(store)
    path = damage(artifact)
    with pytest.raises(ArtifactError) as caught:
        store.find(IDENTITY)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert f"delete {artifact.root} and run again" in str(caught.value)
    shutil.rmtree(artifact.root)
    assert store.find(IDENTITY) is None
    assert build(store).path("one").read_text() == "hello"


def test_cheap_verification_looks_at_sizes_only(store: Store) -> None:
    damage_byte(build(store))
    assert store.find(IDENTITY, checksums=False) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable artifact record"),
        ("[]", "not a readable artifact record"),
        ('{"record_version": "x"}', "not a readable artifact record"),
        ('{"record_version": 1}', "not an artifact record, it has no attempt, files, fingerprint, stage, statistics"),
        ('{"record_version": 99}', "written by a newer illada \\(record version 99\\)"),
    ],
)
def test_bad_record_is_named(store: Store, text: str, message: str) -> None:
    path = build(store).root / "record.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=message) as caught:
        store.find(IDENTITY)
    assert str(caught.value).startswith(f"{path}: ")


def test_record_of_another_identity_is_refused(store: Store) -> None:
    artifact = build(store)
    write_json(artifact.root / "record.json", {**artifact.record, "fingerprint": "f" * 64})
    with pytest.raises(ArtifactError, match=f"holds artifact {'f' * 64}, expected {IDENTITY.fingerprint}"):
        store.find(IDENTITY)


def test_failed_attempt_leaves_its_work_and_nothing_else(store: Store) -> None:
    with pytest.raises(OSError, match="No space left"), store.attempt(IDENTITY) as attempt:
        write(attempt)
        (attempt.work / "half").write_text("done")
        raise OSError(28, "No space left on device")
    assert store.find(IDENTITY) is None
    assert not attempt.output.exists()
    with store.attempt(IDENTITY) as again:
        assert (again.work / "half").read_text() == "done"
        assert again.output != attempt.output
        again.adopt(again.work / "half", "deep/whole")
        artifact = store.publish(again, {}, {}, time.time())
    assert artifact.path("deep/whole").read_text() == "done"
    assert not attempt.work.exists(), "removed on publication"


def test_adopted_folder_keeps_its_shape_and_shares_its_bytes(store: Store) -> None:
    with store.attempt(IDENTITY) as attempt:
        (attempt.work / "ranks" / "0").mkdir(parents=True)
        (attempt.work / "ranks" / "0" / "part").write_text("x")
        attempt.adopt(attempt.work / "ranks", "parts")
        published = attempt.output / "parts" / "0" / "part"
        assert published.stat().st_ino == (attempt.work / "ranks" / "0" / "part").stat().st_ino
        artifact = store.publish(attempt, {}, {}, time.time())
    assert artifact.names == ["parts/0/part"]


def test_statistics_that_are_no_json_publish_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), store.attempt(IDENTITY) as attempt:
        store.publish(attempt, {"loss": float("nan")}, {}, time.time())
    assert store.find(IDENTITY) is None


def test_second_builder_waits_and_finds_the_first_ones_artifact(store: Store) -> None:
    waits: list[int] = []
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with store.attempt(IDENTITY) as attempt:
            inside.set()
            go_on.wait()
            write(attempt)
            store.publish(attempt, {}, {}, time.time())

    def wait() -> None:
        waits.append(1)
        go_on.set()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with store.attempt(IDENTITY, on_wait=wait) as attempt:
        assert store.find(IDENTITY) is not None
    thread.join()
    assert waits
    assert not attempt.output.exists()
    assert store.find(IDENTITY) is not None


def test_waiting_for_another_builder_can_be_interrupted(store: Store) -> None:
    def give_up() -> None:
        raise InterruptedError

    with store.attempt(IDENTITY), pytest.raises(InterruptedError), store.attempt(IDENTITY, on_wait=give_up):
        raise AssertionError("not reached")
    build(store)


def test_without_locks_the_first_publication_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(store_module, "_try_lock", no_locks)
    barrier = threading.Barrier(6)
    results: list[Artifact] = []
    failures: list[BaseException] = []

    def builder(number: int) -> None:
        try:
            with store.attempt(IDENTITY) as attempt:
                write(attempt, f"from {number}")
                barrier.wait()
                results.append(store.publish(attempt, {"number": number}, {}, time.time()))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=builder, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({result.folder for result in results}) == 1
    winner = store.find(IDENTITY)
    assert winner is not None
    assert winner.path("one").read_text() == f"from {winner.statistics['number']}"
    assert [path.name for path in winner.root.glob("attempt-*")] == [winner.folder.name]


@pytest.mark.parametrize("step", ["sync", "sha256_file", "write_json", "os.link", "after link"])
def test_killed_between_any_two_steps_of_publication(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever the step, the artifact is there completely or not at all, and the next run ends with one attempt."""
    pid = os.fork()
    if pid == 0:
        target = {"sync": store_module, "sha256_file": store_module, "write_json": store_module}.get(step, os)
        name = step.removeprefix("os.").removeprefix("after ")
        original = getattr(target, name)

        def dying(*arguments: Any, **keywords: Any) -> Any:
            if step == "after link":
                original(*arguments, **keywords)
            os._exit(9)

        setattr(target, name, dying)
        build(store)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    found = store.find(IDENTITY)
    assert (found is not None) == (step == "after link")
    artifact = found or build(store)
    artifact.verify()
    assert artifact.path("one").read_text() == "hello"
    with store.attempt(IDENTITY):
        pass  # the next builder tidies up
    assert [path.name for path in artifact.root.glob("attempt-*")] == [artifact.folder.name]
    json.loads((artifact.root / "record.json").read_text())
