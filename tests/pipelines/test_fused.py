"""The fused filter decides as datatrove's classes do one after the other, with the same reason and the same text."""

from __future__ import annotations

import random

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import prose

from pipelines.fused import FusedQualityFilter
from pipelines.languages import function_words
from pipelines.words import word_tokenizer


def stock(language: str = "en", *, min_words: int = 50, terminal: bool = False) -> list[BaseFilter]:
    words = word_tokenizer(language)
    return [
        GopherRepetitionFilter(language=words),
        GopherQualityFilter(language=words, stop_words=function_words(language), min_doc_words=min_words),
        C4QualityFilter(language=words, filter_no_terminal_punct=terminal),
        FineWebQualityFilter(language=words),
    ]


FILTERS = {language: stock(language) for language in ("en", "es", "ru")}
FUSED = {language: FusedQualityFilter(filters, word_tokenizer(language)) for language, filters in FILTERS.items()}


def decide(filters: list[BaseFilter], text: str) -> tuple[object, str]:
    document = Document(text=text, id="1")
    for judge in filters:
        try:
            verdict = judge.filter(document)
        except ZeroDivisionError:  # a text without any word
            return "error", document.text
        if verdict is not True:
            return verdict, document.text
    return True, document.text


def assert_equal(filters: list[BaseFilter], fused: FusedQualityFilter, text: str) -> object:
    expected = decide(filters, text)
    assert decide([fused], text) == expected
    return expected[0] if isinstance(expected[0], bool | str) else expected[0][1]  # type: ignore[index]


def mixed(seed: int) -> str:
    """Prose with repeated words, lines and phrases, so that every rule is met on either side of its threshold."""
    rng = random.Random(seed)
    lines = [line for number in range(rng.randint(1, 4)) for line in prose("en", rng.randint(0, 99), 9)]
    phrase = " ".join(rng.choice(lines).split()[: rng.randint(2, 11)])
    for _ in range(rng.randint(0, 30)):
        line = rng.randrange(len(lines))
        words = lines[line].split()
        words.insert(rng.randrange(len(words) + 1), phrase)
        lines[line] = " ".join(words)
    for _ in range(rng.randint(0, 3)):
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    for odd in rng.sample(ODD, rng.randint(0, 2)):
        lines.insert(rng.randrange(len(lines)), odd)
    return rng.choice(["\n", "\n\n", "\n \n", "\x85", "\u2028"]).join(lines)


ODD = [
    "Please read our privacy policy and the terms of use.",
    "This page needs java[12]script to work, they say.",
    "JavaScript is a language with braces.",
    "Lorem ipsum dolor sit amet and so on.",
    "A line with { in it, as code has.",
    "[edit]",
    "[1] [2] [3]",
    "See " + "x" * 1001 + " for more of the same.",
    "• a point ...",
    "###### # # # # # # # #",
    "# " * 90,
    "a\x0bb\x0cc\x1cd e f.",
    "日本語の文章です。これは二つ目の文です。",
    "\u200b\u200d\ufeff",
    "😀 😀 😀 😀",
    "12 34 56 78 90 " * 30,
    "word... " * 20,
    "IS_ALPHA and more of it.",
]


def test_prose_that_breaks_one_rule_or_another() -> None:
    reasons = {assert_equal(FILTERS["en"], FUSED["en"], mixed(seed)) for seed in range(500)}
    assert {True, "top_2_gram", "top_3_gram", "top_4_gram", "dup_line_frac", "curly_bracket", "lorem_ipsum"} < reasons
    assert any(str(reason).startswith("duplicated_") for reason in reasons)


PIECES = st.sampled_from(
    ["a", "ab", "the", "and", "to", "EE. UU.", "don't", "end.", "...", "…", "#", "-", "•", "{", "[1]", "é", "и", "не",
     "😀", "日本", "\u200b", "1", "\ud800", "İ", "x" * 1001, "lorem ipsum", "JAVASCRIPT", "use cookies", "U.S.", "!)"]
)  # fmt: skip
SPACES = st.sampled_from([" ", " ", " ", "", "\n", "\n\n", "\t", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u00a0"])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["en", "es", "ru"]), st.lists(st.tuples(PIECES, SPACES), max_size=80), st.integers(1, 4))
def test_anything(language: str, parts: list[tuple[str, str]], times: int) -> None:
    text = "".join(piece + space for piece, space in parts) * times
    if "\ud800" not in text:
        assert_equal(FILTERS[language], FUSED[language], text)
    for number, fused in enumerate(EACH[language]):
        assert_equal([LENIENT[language][number]], fused, text.replace("\ud800", ""))


LENIENT = {language: stock(language, min_words=0, terminal=True) for language in FILTERS}
EACH = {
    language: [FusedQualityFilter([one], word_tokenizer(language)) for one in LENIENT[language]] for language in FILTERS
}


def test_words_that_join_alike_count_as_equal() -> None:
    """datatrove compares long n-grams without blanks between the words: "ab c" equals "a bc"."""
    rng = random.Random(0)
    stream = "".join(rng.choices("abcdefgh", k=12))
    cuts = [sorted(rng.sample(range(1, 12), 6)) for _ in range(30)]
    text = "\n".join(" ".join(stream[a:b] for a, b in zip([0, *cut], [*cut, 12], strict=True)) for cut in cuts)
    assert str(assert_equal(FILTERS["en"], FUSED["en"], text)).startswith("duplicated_")


def test_decisions_do_not_depend_on_texts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tokens._REMEMBERED", 50)
    small = FusedQualityFilter(FILTERS["en"], word_tokenizer("en"))
    for seed in range(60):
        assert_equal(FILTERS["en"], small, mixed(seed))


def test_c4_by_sentences_is_refused() -> None:
    with pytest.raises(ValueError, match="split_paragraph"):
        FusedQualityFilter([C4QualityFilter(split_paragraph=False)], word_tokenizer("en"))
