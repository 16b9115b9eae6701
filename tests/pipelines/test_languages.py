"""Every language that can be asked for: it is told from the others, and its running text is known by function words."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.config import ConfigError, Curate
from pipelines import languages
from pipelines.language_model import LanguageModel
from pipelines.languages import by_fasttext, check_languages, function_words, identify_language, known_languages
from pipelines.words import word_tokenizer

OWN = LanguageModel(languages._path())
RIGHTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text" / "nltk_udhr2.zip"
FILES = {
    "ar": "arb", "bg": "bul", "ca": "cat", "cs": "ces", "da": "dan", "de": "deu", "el": "ell_monotonic", "en": "eng",
    "es": "spa", "fi": "fin", "fr": "fra", "hu": "hun", "id": "ind", "it": "ita", "nl": "nld", "no": "nob",
    "pl": "pol", "pt": "por_PT", "ro": "ron", "ru": "rus", "sk": "slk", "sv": "swe", "tr": "tur", "uk": "ukr",
}  # fmt: skip
SENTENCES = {
    "ar": "من الممكن أن نقرأ هذا الكتاب في البيت، ولكن لا أحد يعرف إلى أين ذهب الرجل بعد أن كتب كل ما كان يريد.",
    "bg": "Всички деца ходят на училище в града и се връщат у дома с автобуса, но тази сутрин не вали и те са пеша.",
    "ca": "El mercat de la ciutat és obert cada dia i els veïns hi van amb les bosses per comprar el pa que volen.",
    "cs": "Včera jsme se vrátili z hor a na cestě domů bylo hodně sněhu, ale auto nám jelo dobře až do našeho města.",
    "da": "Der er mange mennesker på gaden i dag, og det er ikke til at finde en plads at sætte sig på af den grund.",
    "el": "Το βιβλίο που διάβασα χθες είναι για την ιστορία της πόλης και δεν το είχα δει ποτέ στο παλιό σπίτι μας.",
    "fi": "Hän oli jo mennyt kotiin, kun me tulimme kylään, mutta lapset olivat vielä pihalla ja leikkivät lumessa.",
    "hu": "A gyerekek az iskolában vannak, és nem tudják, hogy ma délután egy új tanár is jön meg a régi igazgató.",
    "id": "Anak itu pergi ke pasar dengan ibunya untuk membeli ikan dan sayur yang akan dimasak pada malam hari ini.",
    "no": "Det er ikke lett å finne en god vei over fjellet når det snør, og av og til må vi snu og gå hjem til byen.",
    "pl": "Nie wiem, jak to się stało, ale w tym domu jest teraz bardzo cicho i nikt do nas nie przychodzi na kawę.",
    "ro": "Copiii se joacă în parc și nu vor să meargă acasă pentru că este o zi frumoasă, cu soare, cum a fost ieri.",
    "sk": "Včera sme boli na výlete v horách a videli sme, že sneh sa už topí a cesta do dediny nie je zlá ako bola.",
    "sv": "Det är inte lätt att hitta en bra bok om historia som är skriven för barn, och den här är för lång för dem.",
    "tr": "Bu sabah çok erken kalktık ve bir saat yürüdük, çünkü köye giden otobüs her gün olduğu gibi geç gelecek.",
    "uk": "Ми не знали, що в цьому місті є така велика бібліотека, і тому пішли до неї за книгами вже наступного дня.",
}


def found(text: str, language: str) -> int:
    """Different function words of the language among the words of a text."""
    return len(set(function_words(language)) & set(word_tokenizer(language).word_tokenize(text)))


def test_there_are_two_dozen() -> None:
    assert known_languages() == tuple(FILES)
    assert set(Curate().languages) < set(known_languages())


@pytest.mark.parametrize("language", FILES)
def test_function_words_are_words_as_they_are_cut(language: str) -> None:
    words = function_words(language)
    assert len(set(words)) == len(words) >= 8
    assert word_tokenizer(language).word_tokenize(" ".join(words)) == words


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_known_by_its_function_words(language: str) -> None:
    assert identify_language(SENTENCES[language], 3000)[0] == language
    assert found(SENTENCES[language], language) >= 4


@pytest.mark.skipif(not RIGHTS.exists(), reason="the Universal Declaration of Human Rights is not here")
@pytest.mark.parametrize("language", FILES)
def test_the_universal_declaration_of_human_rights(language: str) -> None:
    with zipfile.ZipFile(RIGHTS) as archive:
        text = archive.read(f"udhr2/{FILES[language]}.txt").decode()
    label, score = identify_language(text, 3000)
    assert (label, score > 0.65) == (language, True)
    assert identify_language(text)[0] == language
    assert found(text, language) >= len(function_words(language)) * 2 // 3
    others = {other: found(text, other) for other in ("en", "ru", "ar", "fi") if other != language}
    assert found(text, language) > max(others.values())


PIECES = [*SENTENCES.values(), *" \n\t\r\v\f\0", "</s>", " </s> ", "__label__en", "__label__xx ",
          "日本語の文章", "한국어", "ไทย", "\x85\u2028", "😀", "1,5", "<x>", "a", "é"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=8))
def test_our_evaluation_of_the_model_is_fasttexts(pieces: list[str]) -> None:
    text = "".join(pieces).encode(errors="replace").decode()
    assert OWN.predict(text) == by_fasttext(text)


@pytest.mark.skipif(not RIGHTS.exists(), reason="the Universal Declaration of Human Rights is not here")
def test_our_evaluation_of_the_model_is_fasttexts_in_any_script() -> None:
    with zipfile.ZipFile(RIGHTS) as archive:
        texts = [archive.read(name).decode(errors="replace") for name in archive.namelist() if name.endswith(".txt")]
    assert len(texts) > 200
    for text in texts:
        assert OWN.predict(text[:3000]) == by_fasttext(text[:3000])


def test_lone_surrogates_are_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        identify_language("a \udc80 b")


def test_a_model_that_proves_different_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    languages._predictor.cache_clear()
    monkeypatch.setattr(LanguageModel, "predict", lambda self, text: ("en", 1.0))
    assert identify_language(SENTENCES["da"]) == by_fasttext(SENTENCES["da"])
    languages._predictor.cache_clear()


def test_other_models_are_refused(tmp_path: Path) -> None:
    damaged = bytearray(languages._path().read_bytes())
    damaged[32:36] = (3).to_bytes(4, "little")  # softmax
    (tmp_path / "model").write_bytes(damaged)
    with pytest.raises(ValueError, match="not a fastText model of a kind"):
        LanguageModel(tmp_path / "model")


def test_unknown_ones_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no list of function words for ja, xx; there are lists for ar, bg, ca"):
        check_languages(("en", "xx", "ja"))
