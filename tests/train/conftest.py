"""What several files of tests train on, and the run they compare with: made once, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_helpers import LONG, placement, write_shards
from train_ranks import job, on_ranks


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of token shards."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an undisturbed run on two ranks, on files and without Ray."""
    work = tmp_path_factory.mktemp("reference")
    on_ranks(job(work, shards, placement(2)))
    return work


@pytest.fixture(scope="session")
def long_reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `reference`, of as many steps that a fault after the first checkpoint comes before the end."""
    work = tmp_path_factory.mktemp("long-reference")
    on_ranks(job(work, shards, placement(2), training=LONG))
    return work
