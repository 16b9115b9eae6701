"""Token shards: content, layout on disk, `datasets`, zero-copy, damage."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from illada.artifacts import Folder
from illada.data.shards import (
    INDEX,
    ShardError,
    ShardWriter,
    TokenShards,
    document_batch,
    read_batch,
    shard_schema,
    token_dtype,
    write_batch,
)

Documents = list[NDArray[np.int64]]
Make = Callable[..., TokenShards]


def read_back(shards: TokenShards) -> Documents:
    return [
        shards.values(i)[start:stop]
        for i in range(len(shards))
        for start, stop in zip(shards.offsets(i)[:-1], shards.offsets(i)[1:], strict=True)
    ]


def mapped_ranges(folder: Path) -> list[tuple[int, int]]:
    """Address ranges of this process that map a file of `folder`."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    return [(int(start, 16), int(stop, 16)) for start, stop in (line[0].split("-") for line in lines)]


def address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def test_documents_come_back_in_order(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents)
    back = read_back(shards)
    assert len(back) == len(documents) == shards.documents
    for mine, theirs in zip(documents, back, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert shards.tokens == sum(map(len, documents)) == shards.counts.sum()
    ids = [name for i in range(len(shards)) for name in shards.batch(i).column("id").to_pylist()]
    assert ids == [f"d{i}" for i in range(len(documents))]


def test_a_shard_ends_with_the_document_that_fills_it(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents, shard_tokens=1000)
    assert len(shards) > 5
    for i in range(len(shards) - 1):
        assert shards.counts[i] >= 1000 > shards.offsets(i)[-2]
    assert shards.counts[-1] <= 1000 + 90


def test_batching_does_not_show(make_shards: Make, documents: Documents) -> None:
    one, other = make_shards(documents, together=1), make_shards(documents, together=64)
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == sorted(path.name for path in other.folder.iterdir())
    assert filecmp.cmpfiles(one.folder, other.folder, names, shallow=False)[0] == names
    assert one.fingerprint == other.fingerprint


def test_fingerprint_is_of_the_content(make_shards: Make, documents: Documents) -> None:
    changed = [document.copy() for document in documents]
    changed[-1][0] ^= 1
    assert make_shards(documents).fingerprint != make_shards(changed).fingerprint


@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_smallest_type_that_holds_the_vocabulary(make_shards: Make, vocab_size: int, dtype: str) -> None:
    assert token_dtype(vocab_size) == dtype
    shards = make_shards([np.array([0, vocab_size - 1])], vocab_size=vocab_size)
    assert shards.values(0).dtype == dtype
    assert shards.values(0).tolist() == [0, vocab_size - 1]


def test_values_are_the_memory_map(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents)
    for i in range(len(shards)):
        values, offsets = shards.values(i), shards.offsets(i)
        assert not values.flags.writeable
        assert np.shares_memory(values, shards.values(i))
        ranges = mapped_ranges(shards.folder)
        for array in (values, offsets):
            assert any(start <= address(array) and address(array) + array.nbytes <= stop for start, stop in ranges)


def test_open_files_do_not_add_up(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents)
    for i in range(len(shards)):
        shards.values(i)
    targets = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert not [target for target in targets if target.suffix == ".arrow"]


def test_one_record_batch_a_shard(make_shards: Make, documents: Documents) -> None:
    shards = make_shards(documents)
    for entry in shards.shards:
        with pa.ipc.open_stream(pa.OSFile(str(shards.folder / entry["file"]))) as stream:
            assert stream.schema == shard_schema("uint16")
            assert len(list(stream)) == 1


def test_datasets_opens_them(make_shards: Make, documents: Documents) -> None:
    datasets = pytest.importorskip("datasets")
    shards = make_shards(documents)
    dataset = datasets.load_from_disk(str(shards.folder))
    assert dataset.column_names == ["input_ids", "id", "source", "language", "bytes"]
    assert len(dataset) == len(documents)
    for row in (0, 123, len(documents) - 1):
        assert dataset[row]["input_ids"] == documents[row].tolist()
        assert dataset[row]["bytes"] == 3 * len(documents[row])


def test_totals(tmp_path: Path, documents: Documents) -> None:
    writer = ShardWriter(tmp_path, vocab_size=500, shard_tokens=10**9)
    texts = {name: ["x"] * len(documents) for name in ("ids", "sources", "languages")}
    writer.add(document_batch(documents, **texts, sizes=[5] * len(documents), dtype="uint16"))
    tokens = sum(map(len, documents))
    assert writer.close() == {"documents": 300, "tokens": tokens, "bytes": 1500, "shards": 1}


def test_no_documents(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, vocab_size=500, shard_tokens=10)
    writer.add(document_batch([], ids=[], sources=[], languages=[], sizes=[], dtype="uint16"))
    with pytest.raises(ValueError, match="no documents"):
        writer.close()


def test_wrong_columns(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, vocab_size=500, shard_tokens=10)
    wide = document_batch([[1]], ids=["a"], sources=["s"], languages=["en"], sizes=[1], dtype="uint32")
    with pytest.raises(ValueError, match="do not fit"):
        writer.add(wide)


def test_a_batch_file_comes_back(tmp_path: Path) -> None:
    batch = document_batch(
        [[1, 2], []], ids=["a", "b"], sources=["s"] * 2, languages=["en"] * 2, sizes=[1, 0], dtype="u2"
    )
    write_batch(tmp_path / "x.arrow", batch)
    assert read_batch(tmp_path / "x.arrow").equals(batch)
    assert [path.name for path in tmp_path.iterdir()] == ["x.arrow"]


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(path: Path) -> None:
    path.write_bytes(b"\0" * 64 + path.read_bytes()[64:])


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_other_shard(path: Path) -> None:
    batch = document_batch([[1, 2]], ids=["a"], sources=["s"], languages=["en"], sizes=[1], dtype="uint16")
    size = path.stat().st_size
    write_batch(path, batch)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))


@pytest.mark.parametrize("damage", [damage_truncated, damage_header, damage_missing, damage_other_shard])
def test_a_damaged_shard_is_named(make_shards: Make, documents: Documents, damage: Callable[[Path], None]) -> None:
    shards = make_shards(documents)
    damage(shards.folder / "shard-000001.arrow")
    again = TokenShards.open(shards.folder)
    assert again.values(0).size == shards.counts[0]
    with pytest.raises(ShardError, match=r"shard-000001\.arrow"):
        again.values(1)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"index_version": 1, "vocab_size": 5}', "\x00"])
def test_a_damaged_index_is_named(make_shards: Make, documents: Documents, text: str | None) -> None:
    path = make_shards(documents).folder / INDEX
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ShardError, match=r"shards\.json"):
        TokenShards.open(path.parent)


def test_a_newer_index_is_refused(make_shards: Make, documents: Documents) -> None:
    path = make_shards(documents).folder / INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), "index_version": 2}))
    with pytest.raises(ShardError, match="newer illada"):
        TokenShards.open(path.parent)


def test_no_shard_outgrows_arrow_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("illada.data.shards._MOST_TOKENS", 100)
    lengths = [60, 30, 20, 80, 100, 1, 99, 2]
    columns = {name: ["x"] * len(lengths) for name in ("ids", "sources", "languages")}
    rows = [np.full(length, length) for length in lengths]
    writer = ShardWriter(tmp_path, vocab_size=500, shard_tokens=10**12)
    writer.add(document_batch(rows, **columns, sizes=lengths, dtype="uint16"))
    writer.close()
    shards = TokenShards.open(tmp_path)
    assert shards.counts.tolist() == [90, 100, 100, 100, 2]
    assert [row.tolist() for row in read_back(shards)] == [row.tolist() for row in rows]

    long = document_batch([np.zeros(101)], ids=["long"], sources=["s"], languages=["en"], sizes=[1], dtype="uint16")
    with pytest.raises(ValueError, match="document long: 101 tokens, a shard holds 100"):
        ShardWriter(tmp_path / "x", vocab_size=500, shard_tokens=10).add(long)


def test_shards_in_an_object_store_are_fetched_when_touched(
    make_shards: Make, documents: Documents, s3_url: str, tmp_path: Path
) -> None:
    local, folder = make_shards(documents), Folder.at(f"{s3_url}/shards")
    for path in local.folder.iterdir():
        folder.put(path, path.name)
    shards = TokenShards.open(folder)
    assert shards.fingerprint == local.fingerprint and len(shards) > 2

    def kept() -> set[str]:
        return {path.name for path in (tmp_path / "cache").rglob("*.arrow")}

    assert kept() == set()
    assert np.array_equal(shards.values(1), local.values(1))
    assert kept() == {"shard-000001.arrow"}
    folder.write("shard-000002.arrow", folder.read_bytes("shard-000002.arrow")[:-1] + b"?")
    with pytest.raises(ShardError, match=rf"{folder}/shard-000002\.arrow: what was downloaded has another sha256"):
        shards.values(2)
    folder.delete("shard-000000.arrow")
    with pytest.raises(ShardError, match=rf"{folder}/shard-000000\.arrow: cannot be read"):
        shards.values(0)
    assert kept() == {"shard-000001.arrow"}, "nothing damaged is kept"
