"""A reader sees the old file or the new one, never a half of either."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from illada.artifacts import atomic_path, sha256_file, write_json, write_text


def test_checksum_is_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000  # more than two chunks
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    write_text(path, "näw")
    assert path.read_bytes() == "näw".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_error_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_refuses_what_json_has_not(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"b": 1, "a": [1.5]})
    before = path.read_text()
    assert before.index('"a"') < before.index('"b"')
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == before
