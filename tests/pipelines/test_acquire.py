"""Sources that need no Debian: the ladder for web pages, installed code, the user's own files."""

from __future__ import annotations

import gzip
import io
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from text_bench import Bench, page, prose, write_archive

from illada.artifacts import Artifact, Folder, NoProgress, sha256_file
from illada.config import ConfigError, Curate, DataConfig, PythonCode, TextFiles, Tokenizer, WarcFiles, WebDocs
from pipelines.acquire import acquire, check_sources, source_identity
from pipelines.curate import CurateWorker
from pipelines.documents import read_documents
from pipelines.inputs import plan_units, read_inventory
from pipelines.shared import fetch
from pipelines.sources import crawl, debian, pydoc_pages
from pipelines.sources.base import SourceUnavailable, WebPage
from pipelines.sources.files import find_files
from pipelines.warc import Page, read_warc

WEB = WebDocs(name="web", packages=("some-doc",), pages=3)


def inventory(artifact: Artifact) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(artifact.path("inventory.json").read_text())
    return result


def get(bench: Bench, source: Any) -> Artifact:
    return bench.run(
        f"acquire-{source.name}", source_identity(source), lambda attempt: acquire(source, attempt, NoProgress())
    )


def unavailable(why: str) -> Any:
    def fetch(*_: Any) -> Iterator[WebPage]:
        raise SourceUnavailable(why)
        yield

    return fetch


def some_pages(url: str) -> Any:
    def fetch(*_: Any) -> Iterator[WebPage]:
        for number in range(3):
            html = page(prose("en", number), f"Page {number}")
            yield WebPage(url=f"{url}/{number}", date=pydoc_pages.UNKNOWN_DATE, read=html.__bytes__)

    return fetch


class TestLadder:
    @pytest.fixture(autouse=True)
    def _no_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(debian, "fetch_packages", unavailable("apt-get is not installed"))

    def test_archive_over_https_comes_second(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crawl, "fetch_pages", some_pages("https://crawl.example"))
        source = WEB.model_copy(update={"fallback_warc": "https://crawl.example/file.warc.gz"})
        artifact = get(bench, source)
        statistics = artifact.statistics
        assert statistics["origin"] == inventory(artifact)["origin"] == "common-crawl"
        assert statistics["notes"] == ["debian: apt-get is not installed"]
        assert statistics["documents"] == 3
        assert inventory(artifact)["files"][0]["made_from"] == [{"url": "https://crawl.example/file.warc.gz"}]

    def test_what_python_renders_comes_last(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crawl, "fetch_pages", unavailable("no route"))
        monkeypatch.setattr(pydoc_pages, "fetch_pages", some_pages("https://python.example"))
        artifact = get(bench, WEB.model_copy(update={"fallback_warc": "https://crawl.example/file.warc.gz"}))
        assert artifact.statistics["origin"] == "pydoc"
        assert artifact.statistics["notes"] == ["debian: apt-get is not installed", "common-crawl: no route"]
        file = inventory(artifact)["files"][0]
        path = artifact.path(file["path"])
        assert (file["kind"], file["bytes"], file["sha256"]) == ("warc", path.stat().st_size, sha256_file(path))
        assert [item.url for item in read_warc(path) if isinstance(item, Page)] == [
            f"https://python.example/{number}" for number in range(3)
        ]

    def test_archive_that_ends_early_leaves_nothing_behind(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def ends_early(*arguments: Any) -> Iterator[WebPage]:
            yield from some_pages("https://crawl.example")(*arguments)
            raise SourceUnavailable("connection lost")

        monkeypatch.setattr(crawl, "fetch_pages", ends_early)
        monkeypatch.setattr(pydoc_pages, "fetch_pages", some_pages("https://python.example"))
        artifact = get(bench, WEB.model_copy(update={"fallback_warc": "https://crawl.example/file.warc.gz"}))
        assert artifact.names == ["inventory.json", "warc/00000.warc.gz"]
        assert artifact.statistics["documents"] == 3

    def test_nothing_works(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pydoc_pages, "fetch_pages", unavailable("nothing rendered"))
        with pytest.raises(ValueError, match=r"'web' cannot be had here: debian: .*not installed; pydoc: nothing"):
            get(bench, WEB)


def test_pages_of_a_crawl(tmp_path: Path) -> None:
    pages = {f"https://example.org/{number}": page(prose("en", number), "T") for number in range(5)}
    data = write_archive(tmp_path / "a.warc.gz", pages).read_bytes()
    found = list(crawl.pages_of(io.BytesIO(data), 3))
    assert {item.url: item.read() for item in found} == dict(list(pages.items())[:3])
    assert found[0].date.isoformat() == "2024-05-01T00:00:00+00:00"
    with pytest.raises(OSError, match=r"WARC|Gzip"):
        list(crawl.pages_of(io.BytesIO(data[:-100] + b"damaged" * 20), 10))


def test_unreachable_crawl() -> None:
    with pytest.raises(SourceUnavailable, match=r"https://127\.0\.0\.1:9/x\.warc: .*refused"):
        list(crawl.fetch_pages("https://127.0.0.1:9/x.warc", 3, NoProgress()))


def test_readme_as_a_page() -> None:
    text = (
        "# Title\n\nA [link](https://x.org) and **bold** text\nover two lines.\n\n- one\n- two\n\n"
        "![badge](b.png)\n\n```python\nif a < b: pass\n```\n\n| a | b |\n"
    )
    html = pydoc_pages.readme_html(text, "pkg <1.0>")
    assert "<title>pkg &lt;1.0&gt;</title>" in html
    assert "<h2>Title</h2>" in html
    assert "<p>A link and bold text over two lines.</p>" in html
    assert "<p>one</p><p>two</p>" in html
    assert "<pre>\nif a &lt; b: pass\n</pre>" in html
    assert "badge" not in html and "|" not in html


def test_documentation_of_a_module_as_a_page() -> None:
    module = types.ModuleType("shop", "Things to buy.\n\n>>> buy()\n1")
    exec("def buy():\n    '''Buy a thing.'''\ndef _hidden():\n    '''Secret.'''\n", vars(module))
    exec("class Cart:\n    '''Holds things.'''\n    def add(self):\n        '''Add one.'''\n", vars(module))
    vars(module)["join"] = Path.joinpath
    html = pydoc_pages.module_html(module)
    for part in (
        "<p>Things to buy.</p>",
        "<pre>&gt;&gt;&gt; buy()",
        "<p>Buy a thing.</p>",
        "<h3>add</h3>\n<p>Add one.</p>",
    ):
        assert part in html
    assert "Secret" not in html and "join" not in html


@pytest.mark.slow
def test_every_module_is_rendered_in_a_process_of_its_own(tmp_path: Path) -> None:
    pages = list(pydoc_pages.fetch_pages(10_000, tmp_path, NoProgress()))
    urls = [item.url for item in pages]
    assert len(urls) == len(set(urls)) > 400
    assert any(url.endswith("/pydoc/textwrap.html") for url in urls)
    assert any("/readme/numpy-" in url for url in urls)


def test_installed_code(bench: Bench) -> None:
    first, second = (get(bench, PythonCode(name=name, files=30)) for name in ("code", "again"))
    assert first.statistics["origin"] == "environment"
    assert first.statistics["documents"] == 30
    a, b = (list(read_documents(artifact.path("code/00000.parquet"))) for artifact in (first, second))
    assert [document.text for document in a] == [document.text for document in b]
    assert len({document.id for document in a}) == 30
    assert all(document.language == "python" and document.source == "code" and document.title for document in a)
    assert [document.url for document in a] == sorted(document.url for document in a)
    for document in a:
        compile(document.text.encode("utf-8", "surrogatepass").decode(), document.url, "exec", dont_inherit=True)
    made_from = inventory(first)["files"][0]["made_from"]
    assert made_from and all(set(item) == {"package", "version"} for item in made_from)


def data(*sources: Any, **curate: Any) -> DataConfig:
    return DataConfig(sources=sources, tokenizer=Tokenizer(vocab_size=300), curate=curate)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_archive(tmp_path / "a.warc.gz", {"https://example.org": b"<html></html>"})
    (tmp_path / "a.warc.zst").write_bytes(zstandard.compress(gzip.decompress((tmp_path / "a.warc.gz").read_bytes())))
    pq.write_table(pa.table({"text": ["a"], "number": [1]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text('{"text": "a", "key": 1}\n')
    with gzip.open(tmp_path / "t.jsonl.gz", "wb") as file:
        file.write(b'\n{"text": "b"}\n')
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "garbage").write_bytes(b"\x00garbage\xff" * 9)
    return tmp_path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    from datasets import Dataset, DatasetDict

    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "set"))
    DatasetDict({"train": Dataset.from_dict({"text": ["a"]})}).save_to_disk(str(tmp_path / "sets"))
    return tmp_path


def test_the_users_files_are_listed_where_they_are(bench: Bench, files: Path) -> None:
    source = TextFiles(kind="jsonl", name="mine", paths=(f"{files}/*.jsonl*", f"{files}/t.jsonl"), url_column="url")
    listed = [Path(path) for path in find_files(source)]
    assert listed == [files / "empty.jsonl", files / "t.jsonl", files / "t.jsonl.gz"]
    artifact = get(bench, source)
    assert artifact.names == ["inventory.json"]
    content = inventory(artifact)
    assert content["columns"] == {"text": "text", "id": None, "url": "url", "date": None}
    assert [(file["path"], file["sha256"]) for file in content["files"]] == [
        (str(path), sha256_file(path)) for path in listed
    ]
    assert artifact.statistics["bytes"] == sum(path.stat().st_size for path in listed)


def test_changed_content_is_another_source(files: Path) -> None:
    source = WarcFiles(name="mine", paths=(str(files / "a.warc.gz"),))
    before = source_identity(source)
    assert before == source_identity(source)
    write_archive(files / "a.warc.gz", {"https://example.org": b"<html>!</html>"})
    assert before != source_identity(source)
    assert source_identity(WEB) == WEB.identity()


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("warc", "none.warc", r"none\.warc does not exist"),
        ("warc", "*.none", r"\*\.none matches nothing"),
        ("warc", "t.parquet", "is not a WARC file"),
        ("parquet", "t.jsonl", "Parquet"),
        ("jsonl", "garbage", "holds no JSON object"),
        ("jsonl", "t.parquet", "holds no JSON object"),
        ("hf-dataset", "t.jsonl", "is not a folder that datasets"),
    ],
)
def test_wrong_files_are_refused_before_work_starts(files: Path, kind: str, path: str, message: str) -> None:
    paths = (str(files / path),)
    source = WarcFiles(name="mine", paths=paths) if kind == "warc" else TextFiles(kind=kind, name="mine", paths=paths)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message) as caught:
        check_sources(data(source))
    assert "source 'mine'" in str(caught.value)


def test_missing_columns_are_named(files: Path, dataset: Path) -> None:
    for kind, path, column in (
        ("parquet", "t.parquet", {"text_column": "body"}),
        ("parquet", "t.parquet", {"id_column": "key"}),
        ("jsonl", "t.jsonl", {"url_column": "link"}),
        ("parquet", "t.parquet", {"date_column": "when"}),
        ("hf-dataset", "set", {"text_column": "body"}),
    ):
        source = TextFiles(kind=kind, name="mine", paths=(str(files / path),), **column)  # type: ignore[arg-type]
        ((name, value),) = column.items()
        with pytest.raises(ConfigError, match=rf"has no column '{value}' \({name}\); it has .*text"):
            check_sources(data(source))


def test_sound_sources_pass(files: Path, dataset: Path) -> None:
    check_sources(
        data(
            WEB,
            PythonCode(name="code", files=1),
            WarcFiles(name="a", paths=(f"{files}/*.warc.*",)),
            TextFiles(kind="parquet", name="b", paths=(f"{files}/t.parquet",), id_column="number"),
            TextFiles(
                kind="jsonl", name="c", paths=(f"{files}/t.jsonl", f"{files}/t.jsonl.gz", f"{files}/empty.jsonl")
            ),
            TextFiles(kind="hf-dataset", name="d", paths=(f"{files}/set",)),
        )
    )
    with pytest.raises(ConfigError, match=r"dictionary of datasets; name one of its folders \(train\)"):
        check_sources(data(TextFiles(kind="hf-dataset", name="d", paths=(f"{dataset}/sets",))))


@pytest.mark.parametrize(
    ("source", "curate", "message"),
    [
        (WEB.model_copy(update={"packages": ("ok-doc", "--option")}), {}, "not a package name: --option"),
        (WEB.model_copy(update={"fallback_warc": "http://x.org/a.warc.gz"}), {}, "must be an https:// address"),
        (WEB, {"languages": ("en", "xx")}, r"no list of function words for xx; there are lists for ar, bg"),
    ],
)
def test_other_mistakes_are_found_before_work_starts(source: Any, curate: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sources(data(source, **curate))


def test_files_in_an_object_store(bench: Bench, files: Path, s3_url: str, tmp_path: Path) -> None:
    bucket = Folder.at(s3_url)
    for path in files.iterdir():
        if path.is_file():
            bucket.put(path, f"in/{path.name}")
    warc = WarcFiles(name="a", paths=(f"{s3_url}/in/*.warc.gz",))
    json_lines = TextFiles(kind="jsonl", name="c", paths=(f"{s3_url}/in/t.jsonl*", f"{s3_url}/in/empty.jsonl"))
    table = TextFiles(kind="parquet", name="b", paths=(f"{s3_url}/in/t.parquet",), id_column="number")
    check_sources(data(warc, json_lines, table))
    local = TextFiles(kind="jsonl", name="c", paths=(f"{files}/t.jsonl*", f"{files}/empty.jsonl"))
    rows, local_rows = (inventory(get(bench, source))["files"] for source in (json_lines, local))
    assert [row["path"] for row in rows] == [f"{s3_url}/in/{Path(row['path']).name}" for row in local_rows]
    assert [row["sha256"] for row in rows] == [row["sha256"] for row in local_rows]

    artifact = bench.run("acquire-b", {"b": 1}, lambda attempt: acquire(table, attempt, NoProgress()))
    (unit,) = plan_units([read_inventory(artifact)])
    config = Curate(url_filter=False, c4=None, gopher_quality=None, fineweb=None)
    worker = CurateWorker(config, None, (), {})
    assert worker.run(unit, tmp_path)["funnel"][0]["documents_in"] > 0
    before = source_identity(table)
    content = (files / "t.parquet").read_bytes()
    bucket.write("in/t.parquet", content[:8] + bytes([content[8] ^ 1]) + content[9:])  # as long as before
    assert source_identity(table) != before
    again = bench.run("acquire-b", {"b": 2}, lambda attempt: acquire(table, attempt, NoProgress()))
    (newer,) = plan_units([read_inventory(again)])
    assert fetch(newer.payload["file"]).read_bytes() == bucket.read_bytes("in/t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet: missing or changed since source 'b' was acquired"):
        worker.run(unit, tmp_path)
    bucket.delete("in/t.parquet")
    with pytest.raises(ConfigError, match=f"source 'b': {s3_url}/in/t.parquet does not exist"):
        check_sources(data(table))
    with pytest.raises(ConfigError, match="must be local"):
        check_sources(data(TextFiles(kind="hf-dataset", name="d", paths=(f"{s3_url}/set",))))
    with pytest.raises(ConfigError, match="cannot be looked at"):
        check_sources(data(WarcFiles(name="a", paths=("nothing://x/*.warc",))))
