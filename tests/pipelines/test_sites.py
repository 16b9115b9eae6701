"""Lists of sites: which documents they are about, what is wrong in them, and what becomes of the documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st
from text_bench import Bench, page, prose, write_archive

from illada.artifacts import NoProgress
from illada.artifacts.folder import Folder
from illada.config import ConfigError, Curate, DataPlacement
from pipelines.curate import curate
from pipelines.documents import document_files, read_documents
from pipelines.site_filter import SiteFilter
from pipelines.sites import check_sites, read_sites, share_sites, sites_identity, split_url

LIST = """\ufeff# people who want no part in it
example.org
*.wild.example   # with everything below
https://Whole.Example:8443/
deep.example	/private/
https://paths.example/a%20b?x=1
münchen.example
xn--bcher-kva.example
faß.example /Straße
"""
LISTED = [
    "https://example.org", "http://www.EXAMPLE.org./x", "https://user:pw@a.b.example.org:8080/",
    "example.org/no-scheme", "https://wild.example/", "https://x.wild.example", "https://whole.example/any",
    "https://deep.example/private/page", "https://www.deep.example/%70rivate/", "https://paths.example/a b?x=1",
    "https://paths.example/a%20b?x=12", "https://xn--mnchen-3ya.example/", "https://MÜNCHEN.example",
    "https://sub.bücher.example", "https://xn--fa-hia.example/Stra%C3%9Fe/1",
]  # fmt: skip
OTHERS = [
    "", "https://example.com", "https://notexample.org", "https://example.org.evil.net/example.org",
    "https://deep.example/", "https://deep.example", "https://deep.example/private", "https://paths.example/a",
    "https://paths.example/a b", "https://fass.example/Straße", "http://[bad/", "/example.org", "https://org/",
]  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> SiteFilter:
    root = tmp_path_factory.mktemp("sites")
    (root / "list.txt").write_text(LIST, encoding="utf-8")
    config = Curate(opt_outs=(str(root / "list.txt"),))
    check_sites(config)
    return SiteFilter(share_sites(config, root, Folder.at(str(root)))["opt-out"], "opted_out")


def verdict(sites: SiteFilter, url: str) -> object:
    return sites.filter(Document(text="", id="", metadata={"url": url}))


@pytest.mark.parametrize("url", LISTED)
def test_listed(sites: SiteFilter, url: str) -> None:
    assert verdict(sites, url) == (False, "opted_out")


@pytest.mark.parametrize("url", OTHERS)
def test_others(sites: SiteFilter, url: str) -> None:
    assert verdict(sites, url) is True


@given(st.text(alphabet="ab.:/@[]%?#é ", max_size=20) | st.text(max_size=30))
def test_no_address_breaks_it(text: str) -> None:
    host, _ = split_url(text)
    assert host == host.lower().rstrip(".")
    assert not host.startswith("//")


def test_wrong_lists_are_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.txt: a list of sites that cannot be read"):
        check_sites(Curate(block_lists=(str(tmp_path / "missing.txt"),)))
    path = tmp_path / "list.txt"
    for line in (
        "User-agent: *",
        "Disallow: /x",
        "a.example b.example",
        "https://",
        "a.example /x /y",
        "exa mple",
        "<html>",
        "a.example/x /y",
    ):
        path.write_text(f"# first\nfine.example\n{line}\n")
        with pytest.raises(ConfigError, match=r"list\.txt, line 3: .* is not a domain, or a domain and a /path"):
            list(read_sites(path))
    path.write_text("# nothing\n\n")
    assert list(read_sites(path)) == []
    config = Curate(block_lists=(str(path),))
    before = sites_identity(config)
    path.write_text("a.example\n")
    assert sites_identity(config) != before, "another list, another stage"
    assert sites_identity(Curate()) == {}


@pytest.mark.usefixtures("cluster")
def test_their_documents_are_dropped(bench: Bench, tmp_path: Path) -> None:
    pages = {f"https://{host}.example/{n}": page(prose("en", n), "T") for n, host in enumerate(("a", "b", "c", "out"))}
    source = bench.source("web", [(write_archive(tmp_path / "a.warc.gz", pages), "warc")])
    (tmp_path / "out.txt").write_text("out.example\n")
    (tmp_path / "none.txt").write_text("# nobody\n")
    (tmp_path / "block.txt").write_text("a.example /\nb.example /other\n")
    config = Curate(
        url_filter=False, languages=("en",), opt_outs=(str(tmp_path / "out.txt"), str(tmp_path / "none.txt")),
        block_lists=(str(tmp_path / "block.txt"),), rejected_sample=1.0,
    )  # fmt: skip
    one = DataPlacement(workers=1, cpus_per_worker=1)
    identity = sites_identity(config)
    curated = bench.run("curate", identity, lambda at: curate(config, {"web": source}, at, one, NoProgress()))
    urls = [d.url for file in document_files(curated) for d in read_documents(file.path())]
    assert urls == ["https://b.example/1", "https://c.example/2"]
    steps = {row["step"]: row["dropped"] for row in curated.statistics["funnel"]}
    assert list(steps)[:3] == ["read", "opt-out", "block-list"]
    assert (steps["opt-out"], steps["block-list"]) == ({"opted_out": 1}, {"blocked_site": 1})
    (tmp_path / "out.txt").write_text("a.example\n")
    with pytest.raises(ValueError, match="a list of sites changed while the stage was starting"):
        bench.run("curate", {**identity, "again": 1}, lambda at: curate(config, {"web": source}, at, one, NoProgress()))
