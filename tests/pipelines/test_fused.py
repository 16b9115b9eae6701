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
from datatrove.utils.word_tokenizers import load_word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import prose

from illada.config import C4, Curate, FineWeb, GopherQuality, GopherRepetition
from pipelines.filters import stock_filters
from pipelines.fused import FusedQualityFilter
from pipelines.languages import function_words, known_languages
from pipelines.remembered import Remembered
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


def test_default_thresholds_are_datatroves() -> None:
    """But for C4's rule on terminal punctuation, which FineWeb does without."""
    for ours, theirs in zip(stock_filters(Curate(), "en"), stock(), strict=True):
        assert {**vars(ours), "language": None, "stats": None} == {**vars(theirs), "language": None, "stats": None}


SHARES = st.none() | st.floats(0.001, 1)
COUNTS = st.none() | st.integers(1, 40)
NGRAMS = st.lists(st.tuples(st.integers(1, 12), st.floats(0, 1)), max_size=4).map(tuple)
THRESHOLDS = st.builds(
    Curate,
    gopher_repetition=st.none() | st.builds(
        GopherRepetition, dup_line_frac=SHARES, dup_para_frac=SHARES, dup_line_char_frac=SHARES,
        dup_para_char_frac=SHARES, top_n_grams=NGRAMS, dup_n_grams=NGRAMS,
    ),
    gopher_quality=st.none() | st.builds(
        GopherQuality, min_doc_words=COUNTS, max_doc_words=st.none(), min_avg_word_length=st.none(),
        max_avg_word_length=SHARES.map(lambda share: share and share * 10), max_symbol_word_ratio=SHARES,
        max_bullet_lines_ratio=SHARES, max_ellipsis_lines_ratio=SHARES, max_non_alpha_words_ratio=SHARES,
        min_stop_words=COUNTS,
    ),
    c4=st.none() | st.builds(C4, min_num_sentences=st.integers(0, 9), min_words_per_line=st.integers(0, 5),
                             max_word_length=COUNTS),
    fineweb=st.none() | st.builds(FineWeb, short_line_length=st.integers(0, 60)),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(THRESHOLDS, st.integers(0, 10**6), st.lists(st.tuples(PIECES, SPACES), max_size=40))
def test_any_thresholds(config: Curate, seed: int, parts: list[tuple[str, str]]) -> None:
    filters, words = stock_filters(config, "en"), word_tokenizer("en")
    for one in filters:
        one.language = words  # type: ignore[attr-defined]
    fused = FusedQualityFilter(filters, words)
    for text in (mixed(seed), "".join(piece + space for piece, space in parts if piece != "\ud800")):
        assert_equal(filters, fused, text)


@pytest.mark.slow
@pytest.mark.parametrize("language", known_languages())
def test_every_language_by_datatroves_own_tokenizer(language: str) -> None:
    """The stock classes with the stock tokenizer, on function words in sentences with phrases that repeat."""
    own = load_word_tokenizer(language)
    filters: list[BaseFilter] = [
        GopherRepetitionFilter(language=own),
        GopherQualityFilter(language=own, stop_words=function_words(language)),
        C4QualityFilter(language=own, filter_no_terminal_punct=False),
        FineWebQualityFilter(language=own),
    ]
    fused = FusedQualityFilter(filters, word_tokenizer(language))
    rng = random.Random(language)
    verdicts = {assert_equal(filters, fused, _prose_of(language, rng)) for _ in range(60)}
    assert verdicts > {True} and len(verdicts) >= 4  # True: some are kept, the others dropped for three reasons or more


def _prose_of(language: str, rng: random.Random) -> str:
    letters = sorted({letter for word in function_words(language) for letter in word})
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(rng.choice((40, 4000)))]
    lines = []
    for _ in range(rng.randint(3, 30)):
        words = [rng.choice(function_words(language) if rng.random() < 0.3 else vocabulary) for _ in range(20)]
        words.insert(rng.randrange(20), rng.choice(["l'ami", "3.14", "U.S.", "(a-b)", "x@y.z", "«no»", "10€", "😀"]))
        lines.append(" ".join(words).capitalize() + rng.choice([".", ".", ".", "!", " ...", ",", "؟", ";"]))
    for _ in range(rng.choice((0, 0, 1, 2, 8))):
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return rng.choice(["\n", "\n\n", "\u2028"]).join(lines)


def test_words_that_join_alike_count_as_equal() -> None:
    """datatrove compares long n-grams without blanks between the words: "ab c" equals "a bc"."""
    rng = random.Random(0)
    stream = "".join(rng.choices("abcdefgh", k=12))
    cuts = [sorted(rng.sample(range(1, 12), 6)) for _ in range(30)]
    text = "\n".join(" ".join(stream[a:b] for a, b in zip([0, *cut], [*cut, 12], strict=True)) for cut in cuts)
    assert str(assert_equal(FILTERS["en"], FUSED["en"], text)).startswith("duplicated_")


def test_decisions_do_not_depend_on_texts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tokens.WORDS", Remembered(entries=100, characters=10_000))
    small = FusedQualityFilter(FILTERS["en"], word_tokenizer("en"))
    for seed in range(60):
        assert_equal(FILTERS["en"], small, mixed(seed))


def test_c4_by_sentences_is_refused() -> None:
    with pytest.raises(ValueError, match="split_paragraph"):
        FusedQualityFilter([C4QualityFilter(split_paragraph=False)], word_tokenizer("en"))
