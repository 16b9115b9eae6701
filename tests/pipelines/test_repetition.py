"""The fast repetition filter decides as datatrove's does."""

from __future__ import annotations

import random

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherRepetitionFilter
from hypothesis import given, settings
from hypothesis import strategies as st
from text_bench import prose

from pipelines.repetition import FastRepetitionFilter
from pipelines.words import word_tokenizer

WORDS = word_tokenizer("en")
FAST, STOCK = FastRepetitionFilter(WORDS), GopherRepetitionFilter(language=WORDS)


def decide(text: str) -> tuple[object, object]:
    return FAST.filter(Document(text=text, id="1")), STOCK.filter(Document(text=text, id="1"))


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
    return rng.choice(["\n", "\n\n"]).join(lines)


def test_same_decisions_on_prose_that_repeats_more_or_less() -> None:
    reasons = set()
    for seed in range(400):
        ours, theirs = decide(mixed(seed))
        assert ours == theirs, seed
        reasons.add(theirs if theirs is True else theirs[1])  # type: ignore[index]
    assert True in reasons
    assert {"top_2_gram", "top_3_gram", "top_4_gram", "dup_line_frac"} < reasons
    assert any(str(reason).startswith("duplicated_") for reason in reasons)


def test_clear_documents_are_not_handed_on() -> None:
    texts = ["\n".join(prose("en", seed)) for seed in range(50)]
    assert not any(FAST._may_repeat(WORDS.word_tokenize(text), len(text)) for text in texts)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab .\n", max_size=120))
def test_same_decisions_on_next_to_nothing(text: str) -> None:
    ours, theirs = decide(text)
    assert ours == theirs


def test_words_that_join_alike_count_as_equal() -> None:
    """datatrove compares long n-grams without blanks between the words: "ab c" equals "a bc"."""
    rng = random.Random(0)
    stream = "".join(rng.choices("abcdefgh", k=12))
    cuts = [sorted(rng.sample(range(1, 12), 6)) for _ in range(30)]
    text = "\n".join(" ".join(stream[a:b] for a, b in zip([0, *cut], [*cut, 12], strict=True)) for cut in cuts)
    ours, theirs = decide(text)
    assert ours == theirs


def test_very_long_documents_go_to_datatrove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.repetition._LONGEST", 10)
    assert FAST._may_repeat(["a"] * 20, 40)
    text = "\n".join(prose("en", 1))
    assert decide(text) == (True, True)
