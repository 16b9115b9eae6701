"""Artifacts are published once, completely or not at all, found again by identity, and checked when opened."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from illada.artifacts import Artifact, ArtifactError, Attempt, Folder, StageIdentity, Store, objects
from illada.artifacts import artifact as artifact_module
from illada.artifacts import folder as folder_module
from illada.artifacts import store as store_module
from illada.durable.errors import is_transient

IDENTITY = StageIdentity(stage="curate", version=1, config={"x": 1}, inputs={"web": "0" * 64})


@pytest.fixture(params=["files", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store, on files and in a bucket."""
    if request.param == "s3":
        return Store(f"{request.getfixturevalue('s3_url')}/some/store")
    return Store(tmp_path / "store")


@pytest.fixture
def files(tmp_path: Path) -> Store:
    """An empty store on files."""
    return Store(tmp_path / "store")


def on_disk(folder: Folder) -> Path:
    """The path of a folder that is on files."""
    assert folder.path is not None
    return folder.path


def attempts(artifact: Artifact) -> set[str]:
    """What there is of attempts beside the record."""
    return {name.partition("/")[0] for name in artifact.root.names("attempt-")}


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


def damage_byte(artifact: Artifact) -> str:
    artifact.location.write("deep/two", b"thera")
    return f"{artifact.location}/deep/two"


def damage_length(artifact: Artifact) -> str:
    artifact.location.write("one", b"he")
    return f"{artifact.location}/one"


def damage_presence(artifact: Artifact) -> str:
    artifact.location.delete("one")
    return f"{artifact.location}/one"


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
    if damage is damage_byte and store.root.path is None:
        message = "what was downloaded has another sha256 than was recorded"
    with pytest.raises(ArtifactError) as caught:
        found = store.find(IDENTITY)
        assert found is not None
        found.path("deep/two")  # what an object store holds is checked when it is fetched
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert f"delete {artifact.root} and run again" in str(caught.value)
    artifact.root.delete_tree()
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
    root = build(store).root
    root.write("record.json", text.encode())
    with pytest.raises(ArtifactError, match=message) as caught:
        store.find(IDENTITY)
    assert str(caught.value).startswith(f"{root}/record.json: ")


def test_record_of_another_identity_is_refused(store: Store) -> None:
    artifact = build(store)
    artifact.root.write_json("record.json", {**artifact.record, "fingerprint": "f" * 64})
    with pytest.raises(ArtifactError, match=f"holds artifact {'f' * 64}, expected {IDENTITY.fingerprint}"):
        store.find(IDENTITY)


def test_failed_attempt_leaves_its_work_and_nothing_else(store: Store) -> None:
    with pytest.raises(OSError, match="No space left"), store.attempt(IDENTITY) as attempt:
        write(attempt)
        attempt.work.write("half", b"done")
        raise OSError(28, "No space left on device")
    assert store.find(IDENTITY) is None
    assert not attempt.output.exists()
    assert attempt.location.names() == {}
    with store.attempt(IDENTITY) as again:
        assert again.work.read_text("half") == "done"
        assert again.output != attempt.output
        again.adopt(again.work, "half", "deep/whole")
        artifact = store.publish(again, {}, {}, time.time())
    assert artifact.path("deep/whole").read_text() == "done"
    assert attempt.work.names() == {}, "removed on publication"


def test_adopted_folder_keeps_its_shape(store: Store) -> None:
    with store.attempt(IDENTITY) as attempt:
        attempt.work.write("ranks/0/part", b"x")
        attempt.adopt(attempt.work, "ranks", "parts")
        with pytest.raises(FileNotFoundError, match="none"):
            attempt.adopt(attempt.work, "none", "none")
        artifact = store.publish(attempt, {}, {}, time.time())
    assert artifact.names == ["parts/0/part"]
    assert artifact.path("parts/0/part").read_text() == "x"


def test_adopted_files_share_their_bytes(files: Store) -> None:
    with files.attempt(IDENTITY) as attempt:
        attempt.work.write("part", b"x")
        attempt.adopt(attempt.work, "part", "part")
        assert (attempt.output / "part").stat().st_ino == (on_disk(attempt.work) / "part").stat().st_ino


def test_statistics_that_are_no_json_publish_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), store.attempt(IDENTITY) as attempt:
        store.publish(attempt, {"loss": float("nan")}, {}, time.time())
    assert store.find(IDENTITY) is None


def test_second_builder_waits_and_finds_the_first_ones_artifact(files: Store) -> None:
    waits: list[int] = []
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with files.attempt(IDENTITY) as attempt:
            inside.set()
            go_on.wait()
            write(attempt)
            files.publish(attempt, {}, {}, time.time())

    def wait() -> None:
        waits.append(1)
        go_on.set()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with files.attempt(IDENTITY, on_wait=wait) as attempt:
        assert files.find(IDENTITY) is not None
    thread.join()
    assert waits
    assert not attempt.output.exists()
    assert files.find(IDENTITY) is not None


def test_waiting_for_another_builder_can_be_interrupted(files: Store) -> None:
    def give_up() -> None:
        raise InterruptedError

    with files.attempt(IDENTITY), pytest.raises(InterruptedError), files.attempt(IDENTITY, on_wait=give_up):
        raise AssertionError("not reached")
    build(files)


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
    assert len({result.location for result in results}) == 1
    winner = store.find(IDENTITY)
    assert winner is not None
    assert winner.path("one").read_text() == f"from {winner.statistics['number']}"
    assert attempts(winner) == {winner.location.name}


@pytest.mark.parametrize("step", ["sync", "sha256_file", "json_bytes", "os.link", "after link"])
def test_killed_between_any_two_steps_of_publication(files: Store, step: str) -> None:
    """Whatever the step, the artifact is there completely or not at all, and the next run ends with one attempt."""
    pid = os.fork()
    if pid == 0:
        modules = {"sync": artifact_module, "sha256_file": artifact_module, "json_bytes": store_module}
        target = modules.get(step, folder_module.os)
        name = step.removeprefix("os.").removeprefix("after ")
        original = getattr(target, name)

        def dying(*arguments: Any, **keywords: Any) -> Any:
            if step == "after link":
                original(*arguments, **keywords)
            os._exit(9)

        setattr(target, name, dying)
        build(files)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    found = files.find(IDENTITY)
    assert (found is not None) == (step == "after link")
    artifact = found or build(files)
    artifact.verify()
    assert artifact.path("one").read_text() == "hello"
    with files.attempt(IDENTITY):
        pass  # the next builder tidies up
    root = on_disk(artifact.root)
    assert {path.name for path in root.iterdir()} == {"lock", "work", "record.json", artifact.location.name}
    json.loads((root / "record.json").read_text())


_PUBLISHER = """
import os, sys, time
from illada.artifacts import StageIdentity, Store
from illada.artifacts import objects

step = sys.argv[2]
original = getattr(objects.ObjectFolder, step)

def dying(self, *arguments, **keywords):
    if step != "create" or len(sys.argv) == 4:
        original(self, *arguments, **keywords)
    os._exit(9)

setattr(objects.ObjectFolder, step, dying)
store = Store(sys.argv[1])
with store.attempt(StageIdentity(stage="curate", version=1, config={"x": 1}, inputs={"web": "0" * 64})) as attempt:
    (attempt.output / "one").write_text("hello")
    (attempt.output / "two").write_text("there")
    store.publish(attempt, {"documents": 1}, {}, time.time())
"""


@pytest.mark.parametrize("moment", ["put", "write_json", "create", "create after"])
def test_killed_between_upload_and_publication(s3_url: str, tmp_path: Path, moment: str) -> None:
    store = Store(s3_url)
    command = [sys.executable, "-c", _PUBLISHER, s3_url, *moment.split()]
    assert subprocess.run(command, timeout=60, check=False).returncode == 9
    assert list((tmp_path / "cache" / "scratch").glob("*.lock")), "the dead one's scratch folder is still there"
    found = store.find(IDENTITY)
    assert (found is not None) == (moment == "create after")
    artifact = found or build(store)
    artifact.verify()
    assert artifact.path("one").read_text() == "hello"
    with store.attempt(IDENTITY, alone=True):
        pass  # the next builder tidies up
    assert attempts(artifact) == {artifact.location.name}
    assert list((tmp_path / "cache" / "scratch").iterdir()) == []


def test_of_many_processes_that_publish_exactly_one_wins(s3_url: str) -> None:
    program = _PUBLISHER.partition("original =")[0] + _PUBLISHER.partition("dying)\n")[2].replace('"there"', "step")
    program += "\nprint(store.find(attempt.identity).path('two').read_text() == step)"
    racers = [
        subprocess.Popen([sys.executable, "-c", program, s3_url, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(6)
    ]
    answers = [racer.communicate(timeout=100)[0].strip() for racer in racers]
    assert sorted(answers) == ["False"] * 5 + ["True"]
    artifact = Store(s3_url).find(IDENTITY)
    assert artifact is not None
    assert attempts(artifact) == {artifact.location.name}


def test_build_on_another_node_uploads_what_it_wrote(store: Store) -> None:
    with store.attempt(IDENTITY) as attempt:
        elsewhere = pickle.loads(pickle.dumps(attempt))
        with elsewhere.here() as there:
            write(there)
            there.work.write("part", b"x")
            there.adopt(there.work, "part", "adopted")
        (attempt.output / "mine").write_text("from the driver")
        artifact = store.publish(attempt, {}, {}, time.time())
    assert artifact.names == ["adopted", "deep/two", "mine", "one"]
    assert attempts(artifact) == {artifact.location.name}
    assert sorted(path.name for path in artifact.local().rglob("*") if path.is_file()) == [
        "adopted",
        "mine",
        "one",
        "two",
    ]
    assert (artifact.local("deep") / "two").read_text() == "there"


def test_records_are_the_same_on_either_store_and_survive_a_copy(files: Store, s3_url: str) -> None:
    there = Store(f"{s3_url}/store")
    one, two = build(files), build(there)
    changing = ("attempt", "started", "seconds")
    assert {key: value for key, value in one.record.items() if key not in changing} == {
        key: value for key, value in two.record.items() if key not in changing
    }
    two.root.delete_tree()
    assert there.find(IDENTITY) is None
    for name in files.root.names():
        there.root.put(on_disk(files.root) / name, name)
    copied = there.find(IDENTITY)
    assert copied is not None and copied.record == one.record
    assert copied.path("deep/two").read_text() == "there"


def test_retired_artifact_is_gone_and_its_files_stay(store: Store) -> None:
    first = build(store)
    with store.attempt(other(config={"x": 2})) as attempt:
        attempt.work.write("half", b"done")
    assert store.retire("curate", IDENTITY.fingerprint)
    assert store.find(IDENTITY) is None
    assert not store.retire("curate", IDENTITY.fingerprint), "there is none any more"
    second = build(store, text="again")
    assert second.path("one").read_text() == "again"
    assert first.location.read_text("one") == "hello", "for whoever still reads it"
    assert len(attempts(second)) == 2
    assert not store.retire("curate", attempt.identity.fingerprint)
    assert attempt.work.names() == {}, "half-done work is not gone on with either"


def test_damaged_record_can_be_retired(store: Store) -> None:
    artifact = build(store)
    artifact.root.write("record.json", b"{")
    with pytest.raises(ArtifactError):
        store.find(IDENTITY)
    assert store.retire("curate", IDENTITY.fingerprint)
    assert build(store).path("one").read_text() == "hello"


def test_artifact_that_another_process_builds_is_not_retired(files: Store) -> None:
    build(files)
    with files.attempt(IDENTITY), pytest.raises(ArtifactError, match="is being built by another run"):
        files.retire("curate", IDENTITY.fingerprint)
    assert files.find(IDENTITY) is not None
    assert not files.retire("curate", "0" * 64), "there never was one"


def test_files_are_found_by_name_and_a_wrong_name_is_told_with_some_of_them(store: Store) -> None:
    names = [f"part/{number:05d}" for number in range(30)]
    with store.attempt(IDENTITY) as attempt:
        (attempt.output / "part").mkdir()
        for name in names:
            (attempt.output / name).write_text(name)
        artifact = store.publish(attempt, {}, {}, time.time())
    assert [artifact.path(name).read_text() for name in names] == names
    with pytest.raises(ArtifactError, match=r"has no file 'x'; it has \['part/00000', .*\] and 10 more$"):
        artifact.path("x")


def test_a_usable_store_is_left_as_it_was(store: Store) -> None:
    store.check()
    assert store.root.names() == {}


def test_a_missing_bucket_is_named(s3_url: str) -> None:
    with pytest.raises(ArtifactError, match=r"s3://no-such-bucket/x: there is no bucket 'no-such-bucket'; create it"):
        Store("s3://no-such-bucket/x").check()


def test_an_endpoint_that_does_not_answer_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(ArtifactError, match=f"no object store answers at http://127.0.0.1:{port} .*AWS_ENDPOINT_URL"):
        Store("s3://bucket").check()


def test_a_store_without_conditional_writes_is_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Folder, name: str, data: bytes) -> bool:
        self.write(name, data)
        return True

    monkeypatch.setattr(objects.ObjectFolder, "create", careless)
    with pytest.raises(ArtifactError, match="ignores conditional writes"):
        Store(s3_url).check()


def test_denied_access_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(objects, "_client", lambda: types.SimpleNamespace(pipe_file=denied))
    with pytest.raises(ArtifactError, match=rf"{s3_url}: access denied \(Forbidden\); check the credentials"):
        Store(s3_url).check()


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://", "s3://key:secret@bucket/x", "s3://bucket?endpoint=x"])
def test_urls_that_are_no_stores_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(ArtifactError, match="s3://") as caught:
        Store(url)
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file/store: cannot be written \(Not a directory\)"):
        Store(tmp_path / "file" / "store").check()


def test_a_conditional_write_that_met_another_is_repeated(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, answers = Folder.at(s3_url), iter([OSError(errno.EBUSY, "ConditionalRequestConflict"), None])
    sound = objects._client().pipe_file

    def pipe_file(*arguments: Any, **keywords: Any) -> None:
        if (error := next(answers)) is not None:
            raise error
        sound(*arguments, **keywords)

    monkeypatch.setattr(objects, "_client", lambda: types.SimpleNamespace(pipe_file=pipe_file))
    assert folder.create("name", b"data")
    monkeypatch.undo()


def test_trouble_of_the_server_counts_as_passing(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.EREMOTEIO, "We encountered an internal error")

    monkeypatch.setattr(objects, "_client", lambda: types.SimpleNamespace(cat_file=busy))
    with pytest.raises(ConnectionError, match=f"{s3_url}: .*We encountered an internal error") as caught:
        Folder.at(s3_url).read_bytes("name")
    assert is_transient(caught.value)
