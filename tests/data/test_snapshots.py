"""Snapshots by their metadata: 45,000 shards opened, compared and checked with a few reads; numbers given once."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from illada.artifacts import ArtifactError, Store
from illada.artifacts.folder import LocalFolder
from illada.cli.main import app
from illada.data.compare import check, diff
from illada.data.corpora import latest, numbers, open_snapshot, publish, resolve
from illada.data.shards import ShardError
from illada.data.snapshots import read_snapshot
from illada.data.windows import Windows

REFRESHES, SHARDS = 30, 1500


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "snapshots.py"
    spec = importlib.util.spec_from_file_location("snapshots_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A corpus of 45,000 shards that exist by name, made by 30 refreshes."""
    store = Store(tmp_path_factory.mktemp("corpus"))
    _benchmark().describe_corpus(store, REFRESHES, SHARDS)
    return store


class Reads(Counter[str]):
    """Counts the files of stores that are read or listed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        for name in ("read_bytes", "fetch", "names", "exists"):
            patch.setattr(LocalFolder, name, self._counting(name, getattr(LocalFolder, name)))

    def _counting(self, name: str, function):  # type: ignore[no-untyped-def]
        def counted(*arguments, **keywords):  # type: ignore[no-untyped-def]
            self[name] += 1
            return function(*arguments, **keywords)

        return counted


def test_45000_shards_take_a_read_a_refresh(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        reads = Reads(patch)
        last = open_snapshot(store, "web", REFRESHES)
        windows = Windows(last.shards("train"), 4096)
        assert reads.total() <= 5
        first = open_snapshot(store, "web", 1)
        found = diff(first, last)
        assert reads.total() <= 10
        counts = check(last)
        assert reads.total() <= 10 + REFRESHES + 5
    tokens = REFRESHES * SHARDS * 2**28
    assert counts["shards"] == REFRESHES * SHARDS == 45_000
    assert counts["tokens"] == tokens > 12e12
    assert len(windows) == tokens // 4096
    assert found["shards"] == {"added": 43_500, "removed": 0, "same": SHARDS}
    assert found["train"]["tokens"] == found["languages"]["en"]["tokens"] == tokens - SHARDS * 2**28
    assert len(found["source_files"]["added"]) == 100 * (REFRESHES - 1)
    assert sum(file["bytes"] for file in last.artifact.record["files"]) < 4e6, "a few MB"


def test_a_diff_backwards_and_with_itself(store: Store) -> None:
    one, two = open_snapshot(store, "web", 1), open_snapshot(store, "web", 2)
    back = diff(two, one)
    assert back["shards"] == {"added": 0, "removed": SHARDS, "same": SHARDS}
    assert back["sources"]["web"]["tokens"] == -SHARDS * 2**28
    assert len(back["source_files"]["removed"]) == 100
    assert diff(two, two)["shards"] == {"added": 0, "removed": 0, "same": 2 * SHARDS}


def test_what_is_not_as_recorded_is_named(store: Store, tmp_path: Path) -> None:
    snapshot = open_snapshot(store, "web", 2)
    record = store.folder("tokenize", snapshot.value["built"]["tokenize"])
    sound = record.read_bytes("record.json")
    value = json.loads(sound)
    file = next(file for file in value["files"] if file["name"] == "train/shard-000700.arrow")
    file["sha256"] = "0" * 64
    try:
        record.write("record.json", json.dumps(value).encode())
        with pytest.raises(ArtifactError, match=r"snapshot web@2: train/shard-000700\.arrow of tokenize/.* sha256"):
            check(snapshot)
        record.delete("record.json")
        with pytest.raises(ArtifactError, match="no such artifact"):
            check(snapshot)
    finally:
        record.write("record.json", sound)
    check(snapshot)
    with pytest.raises(ShardError, match=r"shard-000000\.arrow: is missing"):
        snapshot.shards("train").values(0)


def test_what_is_fixed_is_compared_both_ways(store: Store) -> None:
    two = open_snapshot(store, "web", 2)
    fixed = two.value["fixed"]
    keys = dict(fixed["deduplicate"])
    assert two.unlike(fixed) == two.unlike({**fixed, "quality": {}}) == ""
    assert two.unlike({**fixed, "deduplicate": {**keys, "urls": True}}) == "deduplicate.urls is None there, True here"
    assert keys.pop("rows") == 8
    assert two.unlike({**fixed, "deduplicate": keys}) == "deduplicate.rows is 8 there, None here"


def test_names_of_snapshots(store: Store) -> None:
    two = open_snapshot(store, "web", 2)
    for name in ("web@2", two.fingerprint, two.fingerprint[:12], f"{store.root}/snapshot/{two.fingerprint[:32]}"):
        assert resolve(store, name).fingerprint == two.fingerprint
    assert resolve(store, "web").number == REFRESHES
    for name, fault in (
        ("web@99", "corpus 'web' has no snapshot 99: it has 1 to 30"),
        ("web@x", "write corpus@number"),
        ("weg", r"no snapshot 'weg' in .*; corpora: web"),
        ("0" * 12, "no snapshot '000000000000'"),
        ("../web@1", "is not the name of a corpus|no such artifact"),
    ):
        with pytest.raises(ArtifactError, match=fault):
            resolve(store, name)
    with pytest.raises(ArtifactError, match="is not a snapshot"):
        read_snapshot(store, two.built("tokenize"))


def test_of_two_that_publish_a_number_one_wins(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path)
    _benchmark().describe_corpus(other, 2, 3)
    candidates = [open_snapshot(other, "web", number) for number in (1, 2)]
    (other.root / "corpora" / "web").delete_tree()
    claims = [type(c)(store=other, artifact=c.artifact, value={**c.value, "number": 1}) for c in candidates] * 8
    won: list[str] = []
    barrier = threading.Barrier(len(claims))

    def claim(snapshot) -> None:  # type: ignore[no-untyped-def]
        barrier.wait()
        if publish(snapshot, snapshot.artifact):
            won.append(snapshot.fingerprint)

    threads = [threading.Thread(target=claim, args=(snapshot,)) for snapshot in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 8, "whoever published the same snapshot has published it"
    assert set(won) == {latest(other, "web").fingerprint}
    assert numbers(other, "web") == [1]


def test_commands(store: Store) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["data", *words, "--store", str(store.root)], env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    table = run("snapshots", "web")
    assert f"web@{REFRESHES}" in table and "+403B" in table
    assert len(json.loads(run("snapshots", "web", "--json"))) == REFRESHES
    text = run("diff", "web@1", "web@2")
    assert "1,500 shards added, 0 removed, 1,500 in both; the tokenizer is the same" in text
    assert "added: web: 2/0.warc.gz (1 GB)" in text
    assert "added: 90 more source files" in text
    assert json.loads(run("diff", "web@1", "web@2", "--json"))["shards"]["added"] == SHARDS
    assert "web@30: 45,000 shards of 30 refreshes, 12.1T tokens" in run("verify", "web@30")
    with pytest.raises(ArtifactError, match=r"the store .* has no such corpus"):
        run("snapshots", "none")
