"""Counts that must add up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines.funnel import Funnel, Tally, check, main_losses, merge


def funnel(dropped: int) -> Funnel:
    texts = [SimpleNamespace(text="é" * (i + 1)) for i in range(5)]
    result = Funnel(["read", "filter"])
    for text in result.kept("read", result.reading("read", texts)):
        assert text.text
    kept = list(result.kept("filter", list(result.reading("filter", texts))[dropped:]))
    assert len(kept) == 5 - dropped
    for _ in range(dropped):
        result.drop("filter", "short")
    return result


def test_rows_count_documents_and_bytes() -> None:
    read, filtered = funnel(2).rows()
    counts = {"documents_in": 5, "bytes_in": 30, "documents_out": 5, "bytes_out": 30}
    assert read == {"step": "read", **counts, "dropped": {}, "failed": {}}
    assert (filtered["documents_out"], filtered["bytes_out"], filtered["dropped"]) == (3, 24, {"short": 2})


def test_unaccounted_documents_are_an_error() -> None:
    broken = funnel(2)
    broken.fail("filter", "parser")
    with pytest.raises(AssertionError, match="step filter read 5 documents but accounts for 6"):
        broken.rows()
    rows = funnel(1).rows()
    rows[1]["documents_in"] = rows[1]["documents_out"] = 4
    rows[1]["dropped"] = {}
    with pytest.raises(AssertionError, match="filter read 4 documents but read kept 5"):
        check(rows)


def test_merging_adds_up() -> None:
    merged = merge([funnel(1).rows(), funnel(3).rows()])
    assert [row["step"] for row in merged] == ["read", "filter"]
    assert merged[1]["dropped"] == {"short": 4}
    assert merged[1]["documents_out"] == 6
    assert merge([]) == []


def test_losses_in_words() -> None:
    assert main_losses(funnel(2).rows()) == "2 by filter: short"
    assert main_losses(funnel(0).rows()) == "none was read"


def test_tally() -> None:
    tally = Tally()
    tally.add("fr", 10)
    tally.add("en", 5, documents=2)
    tally.update({"fr": {"documents": 3, "bytes": 7}})
    assert tally.rows() == {"en": {"documents": 2, "bytes": 5}, "fr": {"documents": 4, "bytes": 17}}
    assert list(tally.rows()) == ["en", "fr"]
