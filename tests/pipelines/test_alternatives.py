"""Narrowed patterns find what the whole ones find."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.alternatives import Edge, Needed

PARTS = ["a", "b", ".", r"\.", r"\.\.+", "[ab]", "[^a]", r"[\d.]", "[a-c-]", r"\w", "(?:a|bc|)", "(ab)+", "(c|.b){2,3}",
         "a?", "b*", "(?<=a)", "(?<![ab])", "(?=c)", "(?!b)", "(?i:A)", "$", "^", "[|(]", r"\|", ""]  # fmt: skip
PATTERNS = st.lists(st.lists(st.sampled_from(PARTS), max_size=3).map("".join), min_size=1, max_size=5)
TEXTS = st.lists(st.text("abcA.1|(-", max_size=8), min_size=1, max_size=8)


def span(found: re.Match[str] | None) -> tuple[int, int] | None:
    return found.span() if found else None


@settings(max_examples=600, deadline=None)
@given(PATTERNS, TEXTS)
def test_ends(parts: list[str], texts: list[str]) -> None:
    for last, pattern in ((False, "|".join(f"^{part}" for part in parts)), (True, "|".join(f"{p}$" for p in parts)),
                          (False, "|".join(parts)), (True, "|".join(parts))):  # fmt: skip
        whole = re.compile(pattern)
        edge = Edge(whole.search, last=last)
        for text in texts:
            search = edge[(text[-1] if last else text[0]) if text else ""]
            assert span(search(text) if search else None) == span(whole.search(text)), pattern


@settings(max_examples=600, deadline=None)
@given(PATTERNS, TEXTS)
def test_characters_that_are_needed(parts: list[str], texts: list[str]) -> None:
    whole = re.compile("|".join(parts))
    needed = Needed(whole.finditer)
    for text in texts:
        assert any(map(needed.__getitem__, text)) or whole.search(text) is None or not text


def test_the_tail_is_searched_alone() -> None:
    edge = Edge(re.compile(r"\.\.+$|!$|(?<=a)bc$").search, last=True)
    assert edge["x"] is None
    for text, place in (
        ("!" * 50_000, 49_999),
        ("." * 50_000, 0),
        ("a!." * 9_999 + "abc", 29_998),
        ("!" * 9 + "...", 9),
    ):
        search = edge[text[-1]]
        assert search is not None and span(search(text)) == (place, len(text))


def test_patterns_that_refer_to_their_groups_or_have_flags_stay_whole() -> None:
    for pattern in (re.compile(r"(a)\1$|b$"), re.compile("A$|b$", re.IGNORECASE)):
        assert Edge(pattern.search, last=True)["b"] == pattern.search
        assert Needed(pattern.finditer)["x"]
