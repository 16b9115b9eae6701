"""Units that kill every worker: left out where the stage can do without them, and never counted as anything."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError
from text_bench import Bench, page, prose, write_archive

from illada.artifacts import Folder, NoProgress
from illada.config import Curate, DataPlacement
from pipelines import curate as curate_module
from pipelines.curate import CurateWorker, curate
from pipelines.ledger import Ledger, Quarantined, Unit, mark, stage_of
from pipelines.pool import PoolError, Results, run_units
from pipelines.quarantine import Quarantine, cause_of

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
PLACE = DataPlacement(workers=2, cpus_per_worker=0.5)


class Deadly:
    """Writes its unit's number, unless the unit is told to end it by a signal or an exit code."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        with Path(unit.payload["log"]).open("a") as file:
            file.write(unit.name + "\n")
        if unit.payload["end"] == "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        if unit.payload["end"] == "exit":
            sys.exit(7)
        (output / "number").write_text(str(unit.payload["number"]))
        return {"number": unit.payload["number"]}


def units(folder: Path, **ends: str) -> list[Unit]:
    log = str(folder / "log")
    return [Unit(name=f"u{n}", payload={"number": n, "log": log, "end": ends.get(f"u{n}", "")}) for n in range(8)]


def run(some: list[Unit], folder: Path, most: int) -> Results:
    return run_units(some, Deadly, Folder.at(folder / "work"), PLACE, NoProgress(), "things", most)


@pytest.mark.usefixtures("cluster")
def test_poisoned_units_are_left_out_named_and_not_tried_again(tmp_path: Path) -> None:
    some = units(tmp_path, u2="signal", u5="exit")
    for _ in range(2):  # the second time nothing is left to do
        results = run(some, tmp_path, 2)
        assert [result.statistics["number"] for result in results] == [0, 1, 3, 4, 6, 7]
        assert len(results) == 6
        killed, exited = results.quarantined
        assert (killed.unit, exited.unit) == (some[2], some[5])
        assert "killed by a signal" in killed.cause and killed.cause.endswith("3 times")
        assert "exit code 7" in exited.cause
        tried = (tmp_path / "log").read_text().split()
        assert sorted(tried) == sorted([*(unit.name for unit in some), "u2", "u2", "u5", "u5"])


@pytest.mark.usefixtures("cluster")
def test_one_unit_too_many_fails_the_stage_and_resuming_tries_all_again(tmp_path: Path) -> None:
    some = units(tmp_path, u2="signal", u5="signal")
    message = r"2 units .* may do without 1 \(max_quarantined\): u2: killed by .*; u5: killed"
    with pytest.raises(PoolError, match=message):
        run(some, tmp_path, 1)
    assert not list((tmp_path / "work").glob("quarantined/*"))
    with pytest.raises(PoolError, match=message):
        run(some, tmp_path, 1)
    assert (tmp_path / "log").read_text().split().count("u2") == 6


def test_markers_of_another_stage_or_payload_quarantine_nothing(tmp_path: Path) -> None:
    some = units(tmp_path)
    here, there = (
        Folder.at(tmp_path / "store" / "curate" / name / "work" / "units") for name in ("ab" * 16, "cd" * 16)
    )
    assert Quarantine(some, here, 3).add(some[1], "a cause")
    assert Quarantine(some, here, 3).units() == [Quarantined(unit=some[1], cause="a cause")]
    assert not Quarantine(units(tmp_path, u1="other"), here, 3)
    shutil.copytree(here.url, there.url)
    assert not Quarantine(some, there, 3)
    marker = Path(here.url) / "quarantined" / "u1.json"
    marker.write_bytes(marker.read_bytes().replace(b"a cause", b"another"))
    assert not Quarantine(some, here, 3)


def test_a_finished_unit_counts_only_in_the_stage_it_was_finished_in(tmp_path: Path) -> None:
    """The same input under another configuration has the same unit, in the work folder of another fingerprint."""
    (unit,) = some = [Unit(name="u0", payload={"number": 0})]
    folders = [tmp_path / "store" / "curate" / name / "work" / "units" for name in ("ab" * 16, "cd" * 16)]
    output = folders[0] / "u0.0123456789ab"
    output.mkdir(parents=True)
    (output / "number").write_text("0")
    mark(unit, Folder.at(folders[0]), output, Folder.at(output), {})
    shutil.copytree(*folders)
    assert not Ledger(some, Folder.at(folders[0])).unfinished
    assert Ledger(some, Folder.at(folders[1])).unfinished == some
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "store", moved)
    assert not Ledger(some, Folder.at(moved / "curate" / ("ab" * 16) / "work" / "units")).unfinished, "a copied store"
    assert stage_of(Folder.at(folders[0])) == f"curate/{'ab' * 16}/work/units"


def test_what_ray_says_of_a_death_becomes_a_cause() -> None:
    assert cause_of(OutOfMemoryError("Task was killed due to the node running low on memory.")).startswith("out of mem")
    assert cause_of(ActorDiedError()) == "The actor died unexpectedly before finishing this task."


class PoisonedCurate(CurateWorker):
    """Dies of one file, as an extractor's native code might."""

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        if unit.payload["name"].endswith("poison.warc.gz"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().run(unit, output)


@pytest.mark.usefixtures("cluster")
def test_curation_goes_on_without_a_poisoned_file_and_says_so(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate_module, "CurateWorker", PoisonedCurate)
    pages = {f"https://www.example.org/{n}": page(prose("en", n), f"Page {n}") for n in range(5)}
    files = [write_archive(tmp_path / name, pages) for name in ("good.warc.gz", "poison.warc.gz")]
    sources = {"web": bench.source("web", [(path, "warc") for path in files])}

    def build(config: Curate) -> dict[str, Any]:
        artifact = bench.run("curate", config.identity(), lambda a: curate(config, sources, a, PLACE, NoProgress()))
        return dict(artifact.statistics)

    config = Curate(url_filter=False, languages=("en",))
    statistics = build(config)
    (lost,) = statistics["quarantined"]
    assert lost["file"] == str(files[1])
    assert "SIGSEGV" in lost["cause"]
    read = statistics["funnel"][0]["documents_in"]
    assert read == 5, "of the file that was given up nobody claims to have read anything"
    kept = statistics["funnel"][-1]["documents_out"]
    figures = statistics["domains"]["domains"]["example.org"]
    assert (figures["read"], figures["documents"]) == (5, kept)
    with pytest.raises(PoolError, match="its worker process died 3 times"):
        build(config.model_copy(update={"max_quarantined": 0.0}))
