"""Shards of one group each, cut where arithmetic says, whatever units the documents were tokenized in."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from illada.artifacts import DamagedWork, Folder
from illada.data.shards import MIXED, read_batch
from pipelines.joining import SHARD, ShardJoiner, group_names, plan_shards
from pipelines.pieces import Piece, write_pieces
from pipelines.rows import TokenRow, rows_batch
from pipelines.shared import share_array

GROUPS = [("web", "de"), ("web", "en"), ("web", "fr"), ("code", "python")]


def corpus(seed: int, count: int = 300) -> list[TokenRow]:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        source, language = rng.choices(GROUPS, weights=[1, 6, 1, 3])[0]
        length = rng.choice([2, 5, 40, 90, 700 if seed % 2 else 90])
        tokens = np.array([rng.randrange(500) for _ in range(length)])
        rows.append(TokenRow(tokens=tokens, id=f"{number:04d}", source=source, language=language, bytes=3 * length))
    return rows


def written(rows: list[TokenRow], work: Path, edges: list[int]) -> list[tuple[str, list[Piece]]]:
    """What tokenization units over rows[edge:next edge] leave."""
    found = []
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        some = rows[first:last]
        groups = [
            (*group, rows_batch([row for row in some if (row.source, row.language) == group], np.uint16))
            for group in sorted({(row.source, row.language) for row in some})
        ]
        found.append((f"unit{number}.x", write_pieces(work / f"unit{number}.x" / "train.arrow", groups)))
    return found


def shards(rows: list[TokenRow], root: Path, edges: list[int], shard_tokens: int, least: int) -> list[tuple]:
    """(group, bytes of the file) of every shard there is."""
    plan = plan_shards("train", written(rows, root / "units", edges), shard_tokens, least)
    table = share_array(plan.pieces, "pieces", root, Folder.at(root / "work"))
    joiner = ShardJoiner(Folder.at(root / "units"), {"train": table}, 500)
    made = []
    for group, unit in zip(plan.groups, plan.units, strict=True):
        output = root / unit.name
        output.mkdir()
        if joiner.run(unit, output)["entry"] is not None:
            made.append((group, (output / SHARD).read_bytes(), read_batch(output / SHARD).to_pylist()))
    return made


@pytest.mark.parametrize("seed", range(6))
def test_as_arithmetic_says_whatever_the_units(seed: int, tmp_path: Path) -> None:
    rows, rng = corpus(seed), random.Random(seed)
    shard_tokens, least = 1500, 2500
    cuts = sorted(rng.sample(range(1, len(rows)), 9))
    made = shards(rows, tmp_path / "many", [0, *cuts, len(rows)], shard_tokens, least)
    whole = shards(rows, tmp_path / "one", [0, len(rows)], shard_tokens, least)
    assert [shard[:2] for shard in made] == [shard[:2] for shard in whole]

    tokens = {group: sum(len(r.tokens) for r in rows if (r.source, r.language) == group) for group in GROUPS}
    small = [group for group in GROUPS if group[0] == "web" and tokens[group] < least]
    expected: dict[tuple[tuple[str, str], int], list[TokenRow]] = {}
    for group in {*GROUPS} - ({*small} if len(small) > 1 else set()) | ({("web", MIXED)} if len(small) > 1 else set()):
        members = small if group[1] == MIXED else [group]
        stream = [row for member in members for row in rows if (row.source, row.language) == member]
        total, start = sum(len(row.tokens) for row in stream), 0
        count = -(-total // shard_tokens)
        for row in stream:
            expected.setdefault((group, start * count // total), []).append(row)
            start += len(row.tokens)
        assert sum(shard[0] == group for shard in made) <= count
    wanted = [(key[0], [row.id for row in expected[key]]) for key in sorted(expected)]
    assert [(group, [row["id"] for row in content]) for group, _, content in made] == wanted
    by_id = {row.id: row for row in rows}
    for group, _, content in made:
        for row in content:
            assert row["input_ids"] == by_id[row["id"]].tokens.tolist()
            assert (row["source"], row["bytes"]) == (group[0], by_id[row["id"]].bytes)


def test_small_languages_of_a_source_are_one_group() -> None:
    tokens = {("a", "en"): 100, ("a", "fr"): 9, ("a", "it"): 8, ("b", "en"): 3, ("c", "x"): 10}
    assert group_names(tokens, 10) == {
        ("a", "en"): ("a", "en"), ("a", "fr"): ("a", MIXED), ("a", "it"): ("a", MIXED),
        ("b", "en"): ("b", "en"), ("c", "x"): ("c", "x"),
    }  # fmt: skip


def test_shards_are_few_and_about_equal() -> None:
    """Planned, not built: a corpus of 45,000 shards and 500 groups in 100,000 pieces."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 2**29 * 45_000 // 100_000, 100_000)
    places = np.concatenate([np.arange(500), rng.zipf(1.3, 100_000) % 500])
    pieces = [
        Piece(
            source=f"s{g % 10}",
            language=f"l{g // 10}",
            documents=1,
            tokens=int(size),
            at=0,
            size=1,
            sha256="0" * 64,
        )
        for g, size in zip(places.tolist(), sizes.tolist(), strict=False)
    ]
    plan = plan_shards("train", [("u", pieces)], 2**28, 2**20)
    groups = set(plan.groups)
    total = sum(piece.tokens for piece in pieces)
    assert 40_000 < len(plan.units) < total / 2**28 + len(groups)
    weights = {
        group: [u.weight for g, u in zip(plan.groups, plan.units, strict=True) if g == group] for group in groups
    }
    assert all(max(some) - min(some) <= 1 and max(some) <= 2**28 for some in weights.values())
    assert all(len(some) == 1 or min(some) >= 2**27 for some in weights.values())
    needed = sum(unit.payload["last"] - unit.payload["first"] for unit in plan.units)
    assert needed <= len(pieces) + len(plan.units), "a piece is read once, and once more where a shard ends in it"


def test_a_damaged_piece_is_removed(tmp_path: Path) -> None:
    rows = corpus(0)
    (tmp_path / "work").mkdir()
    done = written(rows, tmp_path / "units", [0, len(rows)])
    file = tmp_path / "units" / "unit0.x" / "train.arrow"
    plan = plan_shards("train", done, 10**6, 1)
    table = share_array(plan.pieces, "pieces", tmp_path, Folder.at(tmp_path / "work"))
    data = bytearray(file.read_bytes())
    data[done[0][1][0].at + 500] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedWork, match=r"train\.arrow: .*its sha256 had changed"):
        ShardJoiner(Folder.at(tmp_path / "units"), {"train": table}, 500).run(plan.units[0], tmp_path)
    assert not file.exists()
