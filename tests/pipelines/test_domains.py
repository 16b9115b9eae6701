"""Counts by domain: exact in sum, bounded, and the same however units were cut among workers."""

from __future__ import annotations

from collections import Counter

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from pipelines import domains
from pipelines.domains import DomainTally, merge_domains, registrable_domain


def tally(urls: list[str], kept: int) -> DomainTally:
    counted = DomainTally()
    documents = [Document(text="", id="0", metadata={"url": url}) for url in urls]
    for document in list(counted.reading(iter(documents)))[:kept]:
        counted.keep(document.metadata["url"], 10)
    return counted


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12), max_size=6), st.integers(1, 9))
def test_sums_are_exact_and_figures_lower_bounds(units: list[list[str]], most: int) -> None:
    urls = [[f"https://www.{name}.co.uk/page" for name in unit] for unit in units]
    merged = merge_domains(tally(unit, len(unit) // 2).rows(most) for unit in urls)
    true = Counter(f"{name}.co.uk" for unit in units for name in unit)
    found = {name: row["read"] for name, row in merged["domains"].items()}
    assert sum(found.values()) + merged["others"]["read"] == sum(true.values())
    assert all(count <= true[name] for name, count in found.items())
    kept = sum(len(unit) // 2 for unit in units)
    assert sum(row["documents"] for row in [*merged["domains"].values(), merged["others"]]) == kept
    if most >= len(true):
        assert found == true


def test_the_frequent_ones_survive_a_merge_that_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "_HELD", 3)
    monkeypatch.setattr(domains, "REPORTED", 2)
    units = [[f"http://once-{n}.org", *["http://often.org"] * 3, *["http://more.org"] * 5] for n in range(30)]
    merged = merge_domains(tally(unit, 0).rows(10) for unit in units)
    assert {name: row["read"] for name, row in merged["domains"].items()} == {"often.org": 90, "more.org": 150}
    assert merged["others"]["read"] == 30


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://a.b.example.co.uk/x?y", "example.co.uk"),
        ("http://EXAMPLE.com:80/", "example.com"),
        ("http://192.0.2.7/", "192.0.2.7"),
        ("http://localhost/", "localhost"),
        ("http://[::1", ""),
        ("", ""),
    ],
)
def test_registrable_domain(url: str, domain: str) -> None:
    assert registrable_domain(url) == domain
