"""A corpus that grows: only what is new is worked on, nothing comes twice, and every snapshot is what it would be."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from chain import illada
from refresh_bench import configuration, report, run_refresh, write_crawl, write_lines, write_listing

from illada.artifacts import Artifact, Store
from illada.config import ConfigError, RefreshConfig, dump_config
from illada.data.compare import check
from illada.data.corpora import latest, numbers, open_snapshot, publish
from illada.data.snapshots import Snapshot
from illada.data.tokenizer import TextTokenizer
from illada.durable.errors import StageFailed
from workflows.registry import load_workflow, parse_workflow

pytestmark = pytest.mark.usefixtures("cluster")


def first_state(root: Path) -> None:
    write_lines(root / "lines" / "a.jsonl", range(30))
    write_crawl(root / "crawl" / "one.warc.gz", range(100, 130))
    write_listing(root / "warc.paths.gz", ["one.warc.gz"])


def second_state(root: Path) -> None:
    """New reports, and among them old ones: some equal, from the other source, and one twice."""
    write_lines(root / "lines" / "sub" / "b.jsonl", [*range(200, 215), 3, 200])
    write_crawl(root / "crawl" / "two.warc.gz", [*range(300, 310), 100, 101])
    write_listing(root / "warc.paths.gz", ["one.warc.gz", "two.warc.gz"])


def decoded(snapshot: Snapshot) -> list[str]:
    """The documents in its shards, of both splits."""
    tokenizer = TextTokenizer.load(snapshot.built("tokenizer").local())
    found = []
    for split in ("train", "held_out"):
        shards = snapshot.shards(split)
        for index in range(len(shards)):
            values, offsets = shards.values(index), shards.offsets(index)
            for start, end in itertools.pairwise(offsets):
                found.append(tokenizer.decode(values[start + 1 : end - 1].tolist()))
    return found


def texts(snapshot: Snapshot) -> set[int]:
    """Numbers of the reports in its shards; asserts that none comes twice."""
    found = [next(n for n in CANDIDATES if report(n).split("\n")[1] in text) for text in decoded(snapshot)]
    assert len(found) == len(set(found))
    return set(found)


def test_the_example_is_a_refresh() -> None:
    config = load_workflow(Path(__file__).parents[2] / "configs" / "workflows" / "refresh.yaml")
    assert isinstance(config, RefreshConfig)
    assert [source.kind for source in config.sources] == ["listing", "folder", "hf-dataset"]
    assert parse_workflow(dump_config(config)) == config
    for change, fault in (
        ({"corpus": "../x"}, "corpus: "),
        ({"sources": [{"kind": "folder", "name": "x", "files": "warc", "location": "/x", "patern": "*"}]}, "'pattern'"),
        ({"sources": [{"kind": "folder", "name": "x", "files": "pdf", "location": "/x"}]}, "files: "),
        ({"sources": [config.sources[0].identity()] * 2}, "source names must differ"),
        ({"decontaminate": {"benchmarks": [{"name": "x", "paths": ["x"], "columns": ["y"]}]}}, "makes no report"),
    ):
        with pytest.raises(ConfigError, match=fault):
            parse_workflow(dump_config(config), **change)


CANDIDATES = [*range(30), *range(100, 130), *range(200, 215), *range(300, 310), *range(400, 405)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A folder whose corpus has two snapshots."""
    root = tmp_path_factory.mktemp("corpus")
    config = configuration(root)
    first_state(root)
    assert run_refresh(config, root / "runs.db")["snapshot"] == 1
    second_state(root)
    assert run_refresh(config, root / "runs.db") == {
        "corpus": "web", "snapshot": 2, "new_files": 2, "fingerprint": latest(Store(root / "store"), "web").fingerprint,
    }  # fmt: skip
    return root


def test_a_refresh_takes_what_is_new_once(corpus: Path) -> None:
    store = Store(corpus / "store")
    one, two = open_snapshot(store, "web", 1), open_snapshot(store, "web", 2)
    old, both = texts(one), texts(two)
    assert old == {*range(30), *range(100, 130)}
    assert both == {*old, *range(200, 215), *range(300, 310)}

    assert [(file.source, file.name, file.snapshot, file.licence) for file in two.sources()] == [
        ("lines", "a.jsonl", 1, "CC0-1.0"), ("crawl", "one.warc.gz", 1, "unknown"),
        ("lines", "sub/b.jsonl", 2, "CC0-1.0"), ("crawl", "two.warc.gz", 2, "unknown"),
    ]  # fmt: skip
    added = two.artifact.statistics["added"]
    assert {name: group["documents"] for name, group in added["sources"].items()} == {"crawl": 10, "lines": 15}
    assert two.totals["sources"]["lines"]["documents"] == 45
    rows = two.table().to_pylist()
    assert rows[: one.table().num_rows] == one.table().to_pylist(), "old shards stay, in their order"
    assert {row["artifact"] for row in rows} == {s.built("tokenize").fingerprint for s in (one, two)}
    assert sum(row["tokens"] for row in rows if row["split"] == "train") == two.totals["train"]["tokens"]
    assert two.shards("train").tokens == two.totals["train"]["tokens"]
    assert two.built("tokenizer") == one.built("tokenizer")
    assert [snapshot.number for snapshot in two.history()] == [1, 2]
    funnel = {row["step"]: row for row in two.built("deduplicate").statistics["funnel"]}
    assert funnel["exact"]["dropped"] | funnel["near"]["dropped"] == {"known_duplicate": 3, "duplicate": 1}


@pytest.mark.slow
def test_benchmark_text_is_cut_from_what_is_new(tmp_path: Path) -> None:
    planted = {number: report(number).split("\n")[3] for number in (5, 205)}
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text("".join(json.dumps({"text": text}) + "\n" for text in planted.values()))
    cut = {"action": "cut", "benchmarks": [{"name": "planted", "paths": [str(benchmark)], "columns": ["text"]}]}
    config = configuration(tmp_path, decontaminate=cut)
    first_state(tmp_path)
    run_refresh(config, tmp_path / "runs.db")
    second_state(tmp_path)
    run_refresh(config, tmp_path / "runs.db")
    one, two = (open_snapshot(Store(tmp_path / "store"), "web", number) for number in (1, 2))
    assert texts(two) == {*range(30), *range(100, 130), *range(200, 215), *range(300, 310)}
    for snapshot, number in ((one, 5), (two, 205)):
        documents = snapshot.documents()
        assert documents.stage == "decontaminate-documents" and documents in snapshot.artifacts()
        assert {name: documents.statistics[name] for name in ("contaminated", "cut_documents", "cuts")} == {
            "contaminated": 1, "cut_documents": 1, "cuts": 1,
        }  # fmt: skip
        rest = set(report(number).split("\n")[1:]) - {planted[number]}
        assert sum(rest <= set(text.split("\n")) for text in decoded(two)) == 1
    assert not any(text in document for text in planted.values() for document in decoded(two))

    write_lines(tmp_path / "lines" / "known.jsonl", (3, 200))
    run_refresh(config, tmp_path / "runs.db")
    three = open_snapshot(Store(tmp_path / "store"), "web", 3)
    assert three.documents().stage == "deduplicate" and three.totals == two.totals


def test_nothing_new_publishes_nothing(corpus: Path) -> None:
    before = set((corpus / "store").glob("*/*/record.json"))
    result = run_refresh(configuration(corpus), corpus / "runs.db")
    assert (result["snapshot"], result["new_files"]) == (2, 0)
    assert numbers(Store(corpus / "store"), "web") == [1, 2]
    added = set((corpus / "store").glob("*/*/record.json")) - before
    assert {path.parent.parent.name for path in added} == {"discover"}


def test_a_file_that_changed_under_its_name_is_refused_before_any_work(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "lines", tmp_path / "lines")
    source = {"kind": "folder", "name": "lines", "files": "jsonl", "location": str(tmp_path / "lines")}
    config = configuration(corpus, sources=[source])
    before = set((corpus / "store").glob("*/*/record.json"))
    path = tmp_path / "lines" / "a.jsonl"
    was = path.stat().st_size
    write_lines(tmp_path / "lines" / "new.jsonl", range(400, 410))
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(StageFailed, match=rf"a\.jsonl changed since snapshot 1.*then {was} bytes.*now {was + 3} bytes"):
        run_refresh(config, corpus / "runs.db", "changed")
    lines = path.read_bytes().splitlines(keepends=True)[:-1]
    path.write_bytes(b"".join([*lines[1:], lines[0]]))
    with pytest.raises(StageFailed, match=r"a\.jsonl changed .* put the old content back .* under another name"):
        run_refresh(config, corpus / "runs.db", "changed")
    with pytest.raises(StageFailed, match=r"corpus 'web': tokenizer\.vocab_size is 400 there, 500 here"):
        run_refresh(configuration(corpus, tokenizer={"vocab_size": 500}), corpus / "runs.db", "other")
    with pytest.raises(StageFailed, match=r"corpus 'web': deduplicate\.urls is None there, True here"):
        run_refresh(configuration(corpus, deduplicate={"urls": True, "keep": "oldest"}), corpus / "runs.db", "urls")
    assert set((corpus / "store").glob("*/*/record.json")) == before


def test_the_same_in_another_store_and_only_duplicates(corpus: Path, tmp_path: Path) -> None:
    """Identity is content alone; and a refresh whose documents are all known still notes that it took the files."""
    store = tmp_path / "store"
    shutil.copytree(corpus / "store", store)
    for path in (store / "corpora" / "web").glob("2.json"):
        path.unlink()
    config = configuration(corpus, placement={"store": str(store), "data": {"workers": 1}})
    shutil.rmtree(
        next((store / "snapshot").glob(f"{open_snapshot(Store(corpus / 'store'), 'web', 2).fingerprint[:32]}"))
    )
    result = run_refresh(config, tmp_path / "runs.db")
    assert result["fingerprint"] == open_snapshot(Store(corpus / "store"), "web", 2).fingerprint
    assert (
        open_snapshot(Store(store), "web", 2).artifact.content
        == open_snapshot(Store(corpus / "store"), "web", 2).artifact.content
    )

    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "again.jsonl").write_text(
        "".join(json.dumps({"text": report(number)}) + "\n" for number in (1, 2, 200))
    )
    source = {"kind": "folder", "name": "copies", "files": "jsonl", "location": str(tmp_path / "copies")}
    again = configuration(corpus, sources=[source], placement=config.placement.identity())
    result = run_refresh(again, tmp_path / "runs.db", "copies")
    three = open_snapshot(Store(store), "web", 3)
    assert (result["snapshot"], result["new_files"]) == (3, 1)
    assert three.totals == open_snapshot(Store(store), "web", 2).totals
    assert three.table() == open_snapshot(Store(store), "web", 2).table()
    assert three.sources()[-1].name == "again.jsonl"


@pytest.mark.slow
def test_files_that_change_before_they_are_taken_are_listed_anew(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(corpus / "store", tmp_path / "store")
    write_lines(tmp_path / "new" / "a.jsonl", range(500, 505))
    source = {"kind": "folder", "name": "new", "files": "jsonl", "location": str(tmp_path / "new")}
    place = {"store": str(tmp_path / "store"), "data": {"workers": 1}}
    config = configuration(corpus, sources=[source], placement=place)

    store = Store(tmp_path / "store")
    before = len((store.root / "discover").folders())

    def failing(*_: object) -> None:
        raise ValueError("the disk was gone")

    with monkeypatch.context() as patch:
        patch.setattr("workflows.refresh.take", failing)
        with pytest.raises(StageFailed, match="the disk was gone"):
            run_refresh(config, tmp_path / "runs.db")
    write_lines(tmp_path / "new" / "b.jsonl", range(510, 512))
    with monkeypatch.context() as patch:
        patch.setattr("workflows.refresh.take", failing)
        with pytest.raises(StageFailed, match="the disk was gone"):
            run_refresh(config, tmp_path / "runs.db")
    listings = (store.root / "discover").folders()
    assert len(listings) == before + 1, "a file that is new does not make the listing another one"
    write_lines(tmp_path / "new" / "a.jsonl", range(505, 510))
    result = run_refresh(config, tmp_path / "runs.db")
    assert (result["snapshot"], result["new_files"]) == (3, 2)
    added = open_snapshot(store, "web", 3).artifact.statistics["added"]["sources"]
    assert added["new"]["documents"] == 7


@pytest.mark.slow
def test_who_comes_second_starts_over(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another refresh publishes the number first: this one is made again, from that snapshot."""
    store = tmp_path / "store"
    shutil.copytree(corpus / "store", store)
    place = {"store": str(store), "data": {"workers": 2}}

    def refresh_of(name: str, numbers: range) -> RefreshConfig:
        write_lines(tmp_path / name / "new.jsonl", numbers)
        source = {"kind": "folder", "name": name, "files": "jsonl", "location": str(tmp_path / name)}
        return configuration(corpus, sources=[source], placement=place)

    slow, fast = refresh_of("slow", range(600, 606)), refresh_of("fast", range(603, 609))
    attempts = []

    def overtaken(snapshot: Snapshot, discovery: Artifact) -> bool:
        attempts.append(snapshot.number)
        if len(attempts) == 1:
            competitor = tmp_path / "competitor"
            shutil.copytree(store, competitor)
            there = fast.model_copy(update={"placement": fast.placement.model_copy(update={"store": str(competitor)})})
            outcome.update(run_elsewhere(there, tmp_path / "fast.db"))
            for stage in ("discover", "acquire-fast", "curate", "deduplicate", "tokenize", "snapshot"):
                shutil.copytree(competitor / stage, store / stage, dirs_exist_ok=True)
            shutil.copy(competitor / "corpora" / "web" / "3.json", store / "corpora" / "web" / "3.json")
        return publish(snapshot, discovery)

    outcome: dict[str, object] = {}
    monkeypatch.setattr("workflows.refresh.publish", overtaken)
    result = run_refresh(slow, tmp_path / "runs.db")
    assert attempts == [3, 4]
    assert (outcome["snapshot"], result["snapshot"]) == (3, 4)
    four = open_snapshot(Store(store), "web", 4)
    assert [snapshot.number for snapshot in four.history()] == [1, 2, 3, 4]
    assert {file.source: file.snapshot for file in four.sources()} == {"lines": 2, "crawl": 2, "fast": 3, "slow": 4}
    added = four.artifact.statistics["added"]["sources"]
    assert added == {"slow": {**added["slow"], "documents": 3}}, "what the faster one brought is known"


def run_elsewhere(config: RefreshConfig, database: Path) -> dict[str, object]:
    """Run the workflow in a process of its own: this one is at work on another."""
    path = database.with_suffix(".yaml")
    placement = {**config.placement.identity(), "ray_cpus": 2, "output": str(database.parent)}
    value = config.model_copy(update={"placement": config.placement.model_validate(placement)})
    path.write_text(dump_config(value))
    summary: dict[str, dict[str, object]] = json.loads(illada("run", path, "--json", database=database).stdout)
    return summary["result"]


@pytest.mark.slow
def test_in_an_object_store(corpus: Path, tmp_path: Path, s3_url: str) -> None:
    place = {"store": f"{s3_url}/store", "data": {"workers": 2}}
    assert run_elsewhere(configuration(corpus, placement=place), tmp_path / "one.db")["snapshot"] == 1
    write_lines(tmp_path / "more" / "c.jsonl", [*range(400, 405), 1, 200])
    source = {"kind": "folder", "name": "more", "files": "jsonl", "location": str(tmp_path / "more")}
    more = configuration(corpus, sources=[source], placement=place)
    assert run_elsewhere(more, tmp_path / "two.db")["snapshot"] == 2
    two = open_snapshot(Store(f"{s3_url}/store"), "web", 2)
    assert two.artifact.statistics["added"]["sources"]["more"]["documents"] == 5
    assert texts(two) == {*range(30), *range(100, 130), *range(200, 215), *range(300, 310), *range(400, 405)}
    assert check(two)["artifacts"] == 2
