"""A published refresh is built again from a stage on: it looks at the same new files, and the corpus stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from refresh_bench import configuration, run_refresh, write_crawl, write_lines, write_listing

from illada.artifacts import Store
from illada.config import ConfigError
from illada.data.corpora import numbers, open_snapshot
from illada.durable.client import status
from illada.durable.database import open_database
from illada.durable.rebuild import request_rebuild
from workflows.registry import workflow_of

pytestmark = pytest.mark.usefixtures("cluster")


def test_built_again(tmp_path: Path) -> None:
    config, database = configuration(tmp_path), tmp_path / "runs.db"
    write_lines(tmp_path / "lines" / "a.jsonl", range(30))
    write_crawl(tmp_path / "crawl" / "one.warc.gz", range(100, 110))
    write_listing(tmp_path / "warc.paths.gz", ["one.warc.gz"])
    first = run_refresh(config, database)
    engine = open_database(f"sqlite:///{database}", create=False)
    looks = workflow_of(config).looks
    with pytest.raises(ConfigError, match="stage discover looks at the sources once for run daily"):
        request_rebuild(engine, "daily", "discover", looks)
    names = request_rebuild(engine, "daily", "curate", looks)
    again = run_refresh(config, database)
    assert again == first
    assert again["new_files"] == 2
    store = Store(tmp_path / "store")
    assert numbers(store, "web") == [1]
    open_snapshot(store, "web", 1).artifact.verify()
    states = {known.stage: known.state for known in status(engine, "daily")[0].stages}
    assert {states[name] for name in names} == {"done"}
    assert len(list((tmp_path / "store" / "curate").glob("*/retired-*.json"))) == 1
    engine.dispose()
