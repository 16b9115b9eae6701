"""Rows of each group: sums exact, bounds kept, closed forms of weights and temperature, and what cannot be is said."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from illada.config import ConfigError, Mixture
from illada.data.groups import Group
from illada.data.mixture import apportion, plan_rows, water_fill

WINDOW = 100
GROUPS = [
    Group(source="code", language="python", windows=1000),
    Group(source="web", language="de", windows=300),
    Group(source="web", language="en", windows=8000),
    Group(source="web", language="fr", windows=700),
]


def plan(rows: int, groups: list[Group] = GROUPS, **mixture: Any) -> list[int]:
    made = plan_rows(Mixture.model_validate(mixture), groups, rows, WINDOW)
    assert sum(made) == rows
    return made


def test_in_proportion_to_what_there_is() -> None:
    assert plan(10_000) == [1000, 300, 8000, 700]
    assert plan(5000) == [500, 150, 4000, 350]


def test_weights_divide_sources_and_leave_languages_as_they_are() -> None:
    assert plan(4000, sources={"web": {"weight": 3}, "code": {"weight": 1}}) == [1000, 100, 2667, 233]
    assert plan(4000, sources={"web": {"weight": 0}, "code": {"weight": 7}}) == [4000, 0, 0, 0]


def test_tokens_are_exact_and_the_rest_goes_by_weight() -> None:
    assert plan(3000, sources={"code": {"tokens": 210_000}}) == [2100, 30, 800, 70]
    assert plan(3000, sources={"code": {"tokens": 210_000}, "web": {"weight": 5}}) == [2100, 30, 800, 70]


def test_budgets_that_are_no_whole_windows_but_sum_up() -> None:
    groups = [Group(source=name, language="en", windows=50) for name in "abc"]
    budgets = {"a": {"tokens": 33}, "b": {"tokens": 33}, "c": {"tokens": 34}}
    assert plan(1, groups, sources=budgets) == [0, 0, 1]


def test_temperature_is_a_power() -> None:
    groups = [Group(source="web", language=str(k), windows=windows) for k, windows in enumerate([100, 400, 900])]
    assert plan(600, groups, temperature=2) == [100, 200, 300]
    assert plan(300, groups, temperature=1e9, epochs=9) == [100, 100, 100]
    assert plan(1400, groups) == [100, 400, 900]


def test_where_the_epochs_of_a_source_are_used_up_the_others_give_more() -> None:
    weights = {"web": {"weight": 1}, "code": {"weight": 1, "epochs": 2}}
    assert plan(3000, sources=weights) == [1500, 50, 1333, 117]
    assert plan(6000, sources=weights) == [2000, 133, 3556, 311]
    assert plan(9000, temperature=3, epochs=1)[1] == 300


def test_bounds_of_languages() -> None:
    assert plan(1000, sources={"code": {"weight": 0}, "web": {"weight": 1}}, languages={"en": {"maximum": 0.6}}) == [
        0, 120, 600, 280,
    ]  # fmt: skip
    made = plan(9000, sources={"code": {"weight": 0}, "web": {"weight": 1}}, languages={"de": {"minimum": 0.1}})
    assert made == [0, 900, 7448, 652]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_sums_and_bounds(data: st.DataObject) -> None:
    keys = data.draw(st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from("vwxyz")), min_size=1, max_size=9))
    groups = [
        Group(source=source, language=language, windows=data.draw(st.integers(0, 5000)))
        for source, language in sorted(keys)
    ]
    sources = sorted({group.source for group in groups})
    weighted = data.draw(st.booleans())
    amounts = {s: data.draw(st.sampled_from([1, 0.1, 2.5, 40])) for s in sources} if weighted else {}
    caps = {s: data.draw(st.sampled_from([None, 0.5, 2])) for s in sources}
    bounds = {
        language: {"minimum": data.draw(st.sampled_from([0, 0.05])), "maximum": data.draw(st.sampled_from([1, 0.7]))}
        for language in data.draw(st.sets(st.sampled_from("vwxyz"), max_size=2))
    }
    mixture = Mixture.model_validate(
        {
            "sources": {s: {"weight": amounts.get(s), "epochs": caps[s]} for s in sources},
            "languages": bounds,
            "temperature": data.draw(st.sampled_from([1, 2, 3.3, 0.5])),
            "epochs": data.draw(st.sampled_from([0.3, 1, 4])),
        }
    )
    rows = data.draw(st.integers(1, sum(group.windows for group in groups) + 1))
    try:
        made = plan_rows(mixture, groups, rows, WINDOW)
    except ConfigError:
        assume(False)
    assert sum(made) == rows
    for group, count in zip(groups, made, strict=True):
        cap = mixture.epochs if caps[group.source] is None else caps[group.source]
        assert 0 <= count <= cap * group.windows
        total = sum(c for g, c in zip(groups, made, strict=True) if g.source == group.source)
        bound = mixture.languages.get(group.language)
        if bound and total and group.windows:
            assert bound.minimum * total - 2 <= count <= bound.maximum * total + 2


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_water_filling_has_one_level(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 7))
    numbers = st.decimals(0, 50, places=2)
    weights = data.draw(st.lists(st.decimals("0.01", 9, places=2), min_size=count, max_size=count))
    low = data.draw(st.lists(numbers, min_size=count, max_size=count))
    high = [lo + data.draw(numbers) for lo in low]
    part = data.draw(st.decimals(0, 1, places=3))
    total = sum(low) + part * (sum(high) - sum(low))
    parts = water_fill(total, weights, low, high)
    assert abs(sum(parts) - total) < Decimal("1e-20")
    rates = [x / w for x, w, lo, hi in zip(parts, weights, low, high, strict=True) if lo < x < hi]
    assert not rates or max(rates) - min(rates) < Decimal("1e-20"), "those between their bounds are in proportion"
    for x, w, lo, hi in zip(parts, weights, low, high, strict=True):
        assert lo <= x <= hi
        if rates:
            assert x == lo or x / w <= max(rates) + Decimal("1e-20"), "above it is only who must be"
            assert x == hi or x / w >= min(rates) - Decimal("1e-20"), "below it is only who must be"


def test_largest_remainders_are_rounded_up() -> None:
    assert apportion([Decimal("1.5"), Decimal("2.4"), Decimal("0.1")], 4) == [2, 2, 0]
    assert apportion([Decimal("0.5"), Decimal("0.5")], 1) == [1, 0]


@pytest.mark.parametrize(
    ("rows", "mixture", "message"),
    [
        (41_000, {}, r"the run has 4,100,000 tokens, its sources can give 4,000,000; .* epochs: code 4\.10, web 4\.10"),
        (9000, {"sources": {"code": {"weight": 1}, "web": {"weight": 0}}}, r"need epochs: code 9\.00; raise epochs"),
        (9000, {"sources": {"code": {"tokens": 500_000}}}, r"500,000 tokens are 5\.00 epochs of its 100,000, it can "),
        (10, {"sources": {"code": {"tokens": 2_000}}}, r"tokens sum up to 2,000, the run has 1,000"),
        (10, {"sources": {"cod": {}}}, r"no source is called cod; there are code, web"),
        (10, {"sources": {"code": {"weight": 1}}}, r"give web a weight too"),
        (10, {"languages": {"python": {"maximum": 0.9}}}, r"all languages of source code have a maximum"),
    ],
)
def test_what_cannot_be(rows: int, mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(rows, **mixture)


def test_a_source_without_a_window() -> None:
    groups = [*GROUPS, Group(source="wiki", language="en", windows=0)]
    assert plan(10_000, groups) == [1000, 300, 8000, 700, 0]
    with pytest.raises(ConfigError, match=r"wiki: has not one window of 100 tokens"):
        plan(10, groups, sources={name: {"weight": 1} for name in ("code", "web", "wiki")})
