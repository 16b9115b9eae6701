"""A refresh whose driver is killed in its stages, on the command line: the same snapshot, and nothing listed anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chain import illada, published, stage_states, start_and_kill_in
from refresh_bench import configuration, write_crawl, write_lines, write_listing

from illada.config import dump_config

STAGES = ("discover", "acquire-lines", "acquire-crawl", "curate", "deduplicate", "tokenizer", "tokenize", "snapshot")
# Acquisitions share their code, and the cluster's tests kill in `tokenizer` and `tokenize`. `make chaos` does all.
STRUCK = ("discover", "acquire-crawl", "curate", "deduplicate", "snapshot")


def write_config(root: Path, sources: Path) -> Path:
    config = configuration(sources, name="tiny", placement={
        "store": str(root / "store"), "output": str(root / "output"), "ray_cpus": 2, "object_store_mb": 80,
        "data": {"workers": 2},
    })  # fmt: skip
    path = root / "refresh.yaml"
    path.write_text(dump_config(config))
    return path


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "struck",
    [pytest.param(STRUCK, marks=pytest.mark.faults), pytest.param(STAGES, marks=pytest.mark.chaos)],
    ids=["some", "every"],
)
def test_killed_in_stages(tmp_path: Path, struck: tuple[str, ...]) -> None:
    sources = tmp_path / "sources"
    write_lines(sources / "lines" / "a.jsonl", range(500))
    write_crawl(sources / "crawl" / "one.warc.gz", range(2000, 2200))
    write_listing(sources / "warc.paths.gz", ["one.warc.gz"])
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    calm, killed = (write_config(tmp_path / name, sources) for name in ("calm", "killed"))
    illada("run", calm, database=tmp_path / "calm.db")

    database = tmp_path / "killed.db"
    reached = []
    for stage in struck:
        if stage_states(database).get(stage) in ("done", "reused"):
            continue  # it was over before it could be hit
        start_and_kill_in(stage, ["run", killed] if not reached else ["resume", "tiny"], database)
        reached.append(stage)
        if stage == "curate":
            write_lines(sources / "lines" / "late.jsonl", range(5000, 5010))
    assert {"discover", "curate", "deduplicate"} <= set(reached)
    done = json.loads(illada("resume", "tiny", "--json", database=database).stdout)
    assert done["result"] == {
        "corpus": "web",
        "snapshot": 1,
        "new_files": 2,
        "fingerprint": done["result"]["fingerprint"],
    }

    expected, got = published(tmp_path / "calm" / "store"), published(tmp_path / "killed" / "store")
    assert set(expected) == set(STAGES)
    for stage in set(STAGES) - {"discover"}:
        assert got[stage] == expected[stage], stage

    again = json.loads(illada("run", killed, "--json", database=database).stdout)
    assert (again["result"]["snapshot"], again["result"]["new_files"]) == (2, 1), "what came meanwhile is next"
