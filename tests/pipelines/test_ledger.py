"""The ledger of finished units: what counts, what does not, and what it costs to find out."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from illada.artifacts import DamagedWork, Folder, StageIdentity, Store
from pipelines import ledger
from pipelines.ledger import Ledger, Results, Unit, mark


def units(count: int, **payloads: dict[str, Any]) -> list[Unit]:
    return [Unit(name=f"u{n}", payload=payloads.get(f"u{n}", {"number": n})) for n in range(count)]


def finish(work: Path, unit: Unit, text: str = "text", **statistics: Any) -> bytes:
    output = work / f"{unit.name}.{os.urandom(6).hex()}"
    (output / "deep").mkdir(parents=True)
    (output / "one").write_text(text)
    (output / "deep" / "two").write_text(text * 2)
    return mark(unit, Folder.at(work), output, Folder.at(output), {"name": unit.name, **statistics})


def filled(work: Path, some: list[Unit], every: int = 1) -> Ledger:
    """A ledger that every `every`th of the units was added to, the last one first."""
    made = Ledger(some, Folder.at(work))
    for unit in reversed(some[::every]):
        made.add(unit, finish(work, unit))
    return made


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_SEGMENT_UNITS", 4)


def names(found: list[Unit]) -> list[str]:
    return [unit.name for unit in found]


@pytest.mark.usefixtures("small_segments")
def test_what_is_finished_is_found_in_segments_and_markers(tmp_path: Path) -> None:
    some = units(20)
    first = filled(tmp_path, some, every=2)
    assert len(list(tmp_path.glob("done-*.jsonl"))) == 2, "of four units each; two more have their markers only"
    for name in ("u18", "u12"):
        (tmp_path / f"{name}.json").unlink()  # these are in a segment
    again = Ledger(some, Folder.at(tmp_path))
    assert len(first) == len(again) == 10
    assert names(again.unfinished) == [f"u{n}" for n in range(1, 20, 2)]
    for unit in again.unfinished:
        again.add(unit, finish(tmp_path, unit))
    results = Results(again)
    assert [result.name for result in results] == names(some)
    assert [result.statistics["name"] for result in results] == names(some), "a second time, too"
    assert results[7].path("deep/two").read_text() == "texttext"
    lines = [json.loads(line) for path in tmp_path.glob("done-*.jsonl") for line in path.read_text().splitlines()]
    written = [done["unit"] for _, done in lines]
    assert len(written) == len(set(written)) == 20, "each in one segment"
    assert len({path.name for path in tmp_path.glob("done-*.jsonl")}) == 5


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("damage", ["a flipped bit", "a torn end", "an emptied file"])
def test_damaged_segments_count_for_nothing(tmp_path: Path, damage: str) -> None:
    some = units(8)
    filled(tmp_path, some)
    segment = max(tmp_path.glob("done-*.jsonl"))  # u3 ... u0
    data = bytearray(segment.read_bytes())
    if damage == "a flipped bit":
        data[data.index(b'"name":"u2"') + 8] ^= 1  # in the statistics: still JSON, and no longer true
    else:
        del data[0 if damage == "an emptied file" else -10 :]
    segment.write_bytes(data)
    assert len(Ledger(some, Folder.at(tmp_path))) == 8, "the markers make up for it"
    for path in tmp_path.glob("u*.json"):
        path.unlink()
    segment.write_bytes(data)
    for path in sorted(tmp_path.glob("done-*.jsonl"))[2:]:
        path.unlink()  # made of the markers just now
    left = {"a flipped bit": ["u2"], "a torn end": ["u0"], "an emptied file": ["u0", "u1", "u2", "u3"]}
    assert names(Ledger(some, Folder.at(tmp_path)).unfinished) == left[damage]


def test_damaged_markers_count_for_nothing(tmp_path: Path) -> None:
    some = units(4)
    filled(tmp_path, some)
    (tmp_path / "u0.json").write_bytes(b"")
    (tmp_path / "u1.json").write_bytes((tmp_path / "u1.json").read_bytes()[:-20])
    (tmp_path / "u2.json").write_text('["' + "0" * 64 + '",{"unit":"u2"}]\n')
    assert names(Ledger(some, Folder.at(tmp_path)).unfinished) == ["u0", "u1", "u2"]


@pytest.mark.usefixtures("small_segments")
def test_files_that_are_gone_or_changed_leave_their_units_unfinished(tmp_path: Path) -> None:
    some = units(12)
    folders = [Path(result.folder.url) for result in Results(filled(tmp_path, some))]
    (folders[1] / "one").write_text("longer than before")
    (folders[3] / "deep" / "two").write_text("texttexT")  # as long as before
    shutil.rmtree(folders[5])
    (folders[7] / "one").unlink()
    os.utime(folders[9] / "one", ns=(1, 1))  # a restored copy: its content decides
    again = Ledger(some, Folder.at(tmp_path))
    assert names(again.unfinished) == ["u1", "u3", "u5", "u7"]
    for unit in again.unfinished:
        again.add(unit, finish(tmp_path, unit, text="TEXT"))
    last = Ledger(some, Folder.at(tmp_path))
    assert len(last) == 12, "what was done again counts, wherever older lines tell of it"
    assert Results(last)[3].path("deep/two").read_text() == "TEXTTEXT"


def test_another_payload_is_another_unit(tmp_path: Path) -> None:
    filled(tmp_path, units(3))
    assert names(Ledger(units(3, u1={"number": 9}), Folder.at(tmp_path)).unfinished) == ["u1"]
    assert names(Ledger(units(4), Folder.at(tmp_path)).unfinished) == ["u3"]


def test_content_is_checked_where_it_is_used(tmp_path: Path) -> None:
    some = units(2)
    result = Results(filled(tmp_path, some))[1]
    path = Path(result.folder.url) / "one"
    status = path.stat()
    path.write_text("TEXT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a fault of the disk would
    taken_over = Results(Ledger(some, Folder.at(tmp_path)))[1]  # without reading what the units wrote
    assert taken_over.path("deep/two").read_text() == "texttext"
    with pytest.raises(DamagedWork, match=r"one: was missing or its sha256 had changed since it was written; resume"):
        taken_over.path("one")
    assert names(Ledger(some, Folder.at(tmp_path)).unfinished) == ["u1"], "the next attempt does it again"


def test_a_damaged_file_is_not_published(tmp_path: Path) -> None:
    identity = StageIdentity(stage="s", version=1, config={}, inputs={})
    store, some = Store(tmp_path / "store"), units(2)
    with store.attempt(identity) as attempt:
        for result in Results(filled(Path(attempt.work.url), some)):
            result.adopt("one", attempt, f"all/{result.name}")
        path = next(Path(attempt.work.url).glob("u1.*/one"))
        status = path.stat()
        path.write_text("TEXT")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(DamagedWork, match=str(path)):
            store.publish(attempt, {}, {}, time.time())
    assert store.find(identity) is None
    with store.attempt(identity) as attempt:
        again = Ledger(some, attempt.work)
        assert names(again.unfinished) == ["u1"]
        again.add(some[1], finish(Path(attempt.work.url), some[1]))
        Results(again)[0].folder.delete("deep/two")
        with pytest.raises(DamagedWork, match=r"deep/two: was missing"):
            Results(again)[0].adopt("deep/two", attempt, "two")
        for result in Results(again):
            result.adopt("one", attempt, f"all/{result.name}")
        assert store.publish(attempt, {}, {}, time.time()).names == ["all/u0", "all/u1"]


@pytest.mark.usefixtures("small_segments")
def test_units_in_an_object_store(s3_url: str, tmp_path: Path) -> None:
    work, some = Folder.at(f"{s3_url}/work"), units(10)

    def finish_there(unit: Unit) -> bytes:
        output = tmp_path / unit.name
        output.mkdir(exist_ok=True)
        (output / "one").write_text(unit.name)
        return mark(unit, work, output, work / f"{unit.name}.{os.urandom(6).hex()}", {"name": unit.name})

    made = Ledger(some, work)
    for unit in some[:6]:
        made.add(unit, finish_there(unit))
    again = Ledger(some, work)
    assert names(again.unfinished) == ["u6", "u7", "u8", "u9"]
    assert Results(again)[2].path("one").read_text() == "u2"
    broken, gone = Results(again)[1], Results(again)[3]
    broken.folder.write("one", b"U1")
    gone.folder.delete("one")
    with pytest.raises(DamagedWork, match=f"{broken.folder}/one"):
        broken.path("one")
    last = Ledger(some, work)
    assert names(last.unfinished) == ["u1", "u3", "u6", "u7", "u8", "u9"]
    for unit in last.unfinished:
        last.add(unit, finish_there(unit))
    store = Store(f"{s3_url}/store")
    identity = StageIdentity(stage="s", version=1, config={}, inputs={})
    with store.attempt(identity) as attempt:
        for result in Results(Ledger(some, work)):
            result.adopt("one", attempt, f"all/{result.name}")
        artifact = store.publish(attempt, {}, {}, time.time())
    assert [artifact.path(f"all/u{n}").read_text() for n in range(10)] == names(some)


def test_a_unit_finished_by_a_worker_that_died_is_known_by_its_marker(tmp_path: Path) -> None:
    some = units(3)
    made = Ledger(some, Folder.at(tmp_path))
    assert made.marked(some[0]) is None
    line = finish(tmp_path, some[0])
    assert made.marked(some[0]) == line
    assert made.marked(Unit(name="u0", payload={"number": 9})) is None, "another unit of that name"
    finish(tmp_path, some[1])
    shutil.rmtree(next(tmp_path.glob("u1.*[!n]")))
    assert made.marked(some[1]) is None, "its files are gone"
