"""Our remembered tokens and sentences against spaCy's, through datatrove's own classes."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import pytest
from datatrove.utils import _import_utils
from datatrove.utils.word_tokenizers import SpaCyTokenizer, WordTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import SENTENCES

from pipelines import startup
from pipelines.alternatives import _Tail
from pipelines.remembered import Remembered
from pipelines.tokens import TokenTable
from pipelines.words import ChunkTokenizer, word_tokenizer

RIGHTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text" / "nltk_udhr2.zip"
TEXTS = {
    "en": "eng", "fr": "fra", "de": "deu", "es": "spa", "it": "ita", "pt": "por_PT", "nl": "nld", "ru": "rus"
}  # fmt: skip
ODD = """
Mr. O'Neill can't pay $3.50/kg (i.e. 10km at 5 p.m.) -- see https://example.org/a?b=c&d=e#f. "Really?!" he wrote...
e-mail: first.last@example.org; C:\\dir; snake_case() != CamelCase->x[0]; v1.2.3-rc4, 50%, 1,000,000.00 € №5 § 7
He said: «Да.» J'ai vu l'été, aujourd'hui, c'est-à-dire qu'il est 10h30. ¿Qué? ¡Sí! El Sr. García de los EE. UU. vino.
д-р ист. наук и т.д., в т.ч. пример.   Two  spaces.\tTabs\t\tand\u00a0hard blanks\u2003here. The end
z.B. Straße, d.h. 3. Mai; u.s.w. :-) ;) <3 ^_^ ... .. . ! ?! And 'quotes' “double” ’tis rock'n'roll.
"""


@cache
def stock(language: str) -> WordTokenizer:
    return SpaCyTokenizer(language)


def assert_equal(language: str, text: str) -> None:
    ours, theirs = word_tokenizer(language), stock(language)
    assert ours.word_tokenize(text) == theirs.word_tokenize(text)
    assert list(ours.span_tokenize(text)) == list(theirs.span_tokenize(text))
    assert ours.sent_tokenize(text) == theirs.sent_tokenize(text)


@pytest.mark.parametrize("language", TEXTS)
def test_odd_texts(language: str) -> None:
    assert isinstance(word_tokenizer(language), ChunkTokenizer)
    for text in ["", " ", "\n", ".", " .\n", "a", ODD, *ODD.splitlines(), *SENTENCES["de"].splitlines()]:
        assert_equal(language, text)
        assert_equal(language, text)  # the second time from memory


@pytest.mark.skipif(not RIGHTS.exists(), reason="shared data is absent")
@pytest.mark.parametrize("language", TEXTS)
def test_a_long_text_of_each_language(language: str) -> None:
    text = zipfile.ZipFile(RIGHTS).read(f"udhr2/{TEXTS[language]}.txt").decode()
    assert len(text) > 5000
    assert_equal(language, text)
    for line in text.splitlines()[:60]:
        assert_equal(language, line)


WORDS = [
    "a",
    "U.S.",
    "don't",
    "end.",
    "?",
    "!",
    "...",
    "word",
    '"x"',
    "(y).",
    "z!)",
    "10km",
    "a.b",
    "EE.",
    "UU.",
    "I’m",
]
SPACES = [" ", "  ", "\n", " \n", "\t", "\u00a0", "\n\n"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["en", "es", "ru"]), st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES))))
def test_sentences_around_all_kinds_of_space(language: str, parts: list[tuple[str, str]]) -> None:
    text = "".join(word + space for word, space in parts)
    assert_equal(language, text)
    assert_equal(language, "  " + text)


def test_memory_is_bounded_over_all_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = Remembered(entries=20, characters=400)
    for module in ("words", "tokens"):
        monkeypatch.setattr(f"pipelines.{module}.WORDS", remembered)
    tokenizers = [ChunkTokenizer(SpaCyTokenizer(name).tokenizer, SpaCyTokenizer(name)) for name in ("en", "de")]
    tables = [TokenTable(tokenizer) for tokenizer in tokenizers]
    held = []
    for start in range(0, 200, 5):
        text = " ".join(f"w{number}{'x' * (number % 40)}." for number in range(start, start + 5))
        for ours, table in zip(tokenizers, tables, strict=True):
            words = stock(ours.language).word_tokenize(text)
            assert ours.word_tokenize(text) == words
            assert len(set(zip(words, table.encode(text).tolist(), strict=True))) == len(set(words))
            caches = [*(own._words for own in tokenizers), *(d for own in tables for d in (own._chunks, own._ids))]
            held.append((sum(map(len, caches)), sum(len(entry) for cache in caches for entry in cache)))
    assert 20 < max(count for count, _ in held) <= 20 + 11  # a text of five chunks and six words comes on top
    assert 400 < max(size for _, size in held) <= 400 + 2 * 5 * 45


def test_the_word_that_spacy_cannot_take_twice() -> None:
    text = "First (IS_ALPHA). Then IS_ALPHA again."
    for _ in range(2):
        stock("en").word_tokenize("IS_ALPHA")
    assert_equal("en", text)
    assert word_tokenizer("en").word_tokenize("IS_ALPHA") == []


def test_unknown_language() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        word_tokenizer("no such language")


def test_nothing_is_missing_after_a_quick_start() -> None:
    script = """if True:
        import sys
        from pipelines.startup import import_spacy
        import_spacy()
        assert not {"torch", "spacy.cli", "spacy.cli.info"} & sys.modules.keys()
        import spacy
        assert spacy.info(silent=True)["spacy_version"] == spacy.__version__
        assert spacy.cli.info.__module__ == "spacy.cli.info"
    """
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_distribution_is_found_by_its_name() -> None:
    startup.quick_checks()
    _import_utils.check_required_dependencies("this test", ["spacy"])
    with pytest.raises(ImportError, match="no-such-package"):
        _import_utils.check_required_dependencies("this test", ["no-such-package"])
    with pytest.raises(ImportError, match="no-such-distribution"):
        _import_utils.check_required_dependencies("this test", [("spacy", "no-such-distribution")])


def test_a_chunk_that_no_language_has_is_cut_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.words._LONGEST", 100)
    monkeypatch.setattr("pipelines.words.WORDS", Remembered(entries=1000, characters=1000))
    ours = ChunkTokenizer(SpaCyTokenizer("en").tokenizer, SpaCyTokenizer("en"))
    chunk = "don't,stop" * 95
    expected = [word for first in range(0, 950, 100) for word in stock("en").word_tokenize(chunk[first : first + 100])]
    for _ in range(3):
        assert ours.word_tokenize(f"Now, {chunk} {'a' * 950}") == ["Now", ",", *expected, "a" * 950]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(["en", "de", "fr", "ru", "hu", "tr", "el", "id"]), st.randoms(use_true_random=False))
def test_special_cases_among_affixes(language: str, draw: Random) -> None:
    ours = word_tokenizer(language)
    assert isinstance(ours, ChunkTokenizer)
    pieces = [*"abAB019'’-.,:;/()[]{}\"!?…—~@#$%&*+=<>|\\_`´°€", "km", "http://", "www.a.org", ":)"]
    pieces += sorted(ours._spacy.rules)[:: draw.choice((1, 20))]
    pieces += sorted(ours._affixes._apart)[:: draw.choice((1, 20))]
    chunk = "".join("".join(draw.choices(pieces, k=draw.randint(1, 5))).split())
    expected = tuple(token.text for token in ours._spacy(chunk))
    assert ours.cut([chunk]) == [expected]


@pytest.mark.parametrize("unit", ["!", ")(", ".)", ":)", "(-:", "'s", "1.", "--", "«»", "a-b,", "$1"])
def test_work_grows_with_the_length_of_a_chunk(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all the places of a text at which patterns are tried, counted, and as spaCy cuts it."""
    ours = ChunkTokenizer(SpaCyTokenizer("en").tokenizer, SpaCyTokenizer("en"))
    searched = 0

    def search(self: _Tail, text: str) -> re.Match[str] | None:
        nonlocal searched
        start = self._start(text)
        searched += len(text) - start
        return self._search(text, start)

    monkeypatch.setattr(_Tail, "__call__", search)
    chunk = unit * (600 // len(unit))
    assert ours.cut([chunk]) == [tuple(token.text for token in ours._spacy(chunk))]
    searched = 0
    ours.cut([unit * (20_000 // len(unit))])
    assert searched <= 20 * 20_000
