"""Word and sentence boundaries as datatrove's tokenizers give them, an order of magnitude sooner.

spaCy splits text at white space first and then looks at each chunk by itself, so what it made of a chunk can be
remembered. Special cases that span white space ("EE. UU.") are the exception: a text with one goes through spaCy whole.
A chunk of more than 65,536 characters, which no writing with spaces has, is cut in pieces of that length: its memory is
bounded. Sentences follow spaCy's rule-based sentencizer: a new one begins with the first token that is not punctuation
after one of its end marks.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from datatrove.utils.word_tokenizers import SpaCyTokenizer, WordTokenizer, load_word_tokenizer

from pipelines.affixes import AffixSplitter
from pipelines.remembered import WORDS
from pipelines.startup import import_spacy, quick_checks

_CHUNK = re.compile(r"\S+")
_LONGEST = 2**16  # characters of a chunk that is looked at in one piece: spaCy takes 330 bytes for each
_BREAKS_SPACY = "IS_ALPHA"  # spaCy raises on it, though not the first time; datatrove leaves it out when it does

# Where sentences begin in a chunk, and whether it closes with an end mark: [1] if the text before it did, [0] if not.
_Sentences = tuple[tuple[tuple[int, ...], bool], tuple[tuple[int, ...], bool]]


@functools.cache
def word_tokenizer(language: str) -> WordTokenizer:
    """The tokenizer datatrove assigns to `language`, remembering chunks where that gives the same tokens.

    Raises ValueError for a language datatrove has none for, ImportError when it needs a package that is not installed.
    """
    import_spacy()
    quick_checks()
    stock = load_word_tokenizer(language)
    if not isinstance(stock, SpaCyTokenizer):
        return stock
    from spacy.tokenizer import Tokenizer

    own = SpaCyTokenizer(stock.language, stock.config)  # `stock` loads only if it is needed
    return ChunkTokenizer(own.tokenizer, stock) if type(own.tokenizer.tokenizer) is Tokenizer else stock


class ChunkTokenizer(WordTokenizer):
    """Remembers what a spaCy pipeline, which it owns, made of each chunk; `stock` takes the texts that need more."""

    def __init__(self, nlp: Any, stock: SpaCyTokenizer) -> None:
        super().__init__(stock.language)
        import ahocorasick
        from spacy.attrs import IS_PUNCT

        self._nlp, self._spacy, self._stock = nlp, nlp.tokenizer, stock
        self._affixes = AffixSplitter(self._spacy)
        self._marks = self._nlp.get_pipe("sentencizer").punct_chars
        # the only property of words that sentences depend on; spaCy would work out twenty for each new word
        self._is_punctuation = self._nlp.vocab.lex_attr_getters[IS_PUNCT]
        self._nlp.vocab.lex_attr_getters = {IS_PUNCT: self._is_punctuation}
        self._words: dict[str, tuple[str, ...]] = {}
        self._sentences: dict[str, _Sentences] = {}
        WORDS.join(self)
        self._whole = ahocorasick.Automaton()
        self.phrases = frozenset(phrase for phrase in self._spacy.rules if len(phrase.split()) > 1)
        for phrase in self.phrases:
            self._whole.add_word(phrase, phrase)
        if len(self._whole):
            self._whole.make_automaton()

    def word_tokenize(self, text: str) -> list[str]:
        """Tokens of `text` without white space."""
        text = self.prepare(text)
        if self.needs_whole(text):
            return list(self._stock.word_tokenize(text))
        return [word for words in self.words_of(text.split()) for word in words]

    def words_of(self, chunks: list[str]) -> list[tuple[str, ...]]:
        """The words of each of `chunks`, which have no white space in them and are of texts without `phrases`."""
        self._learn(chunks)
        return [self._words[chunk] for chunk in chunks]

    def sent_tokenize(self, text: str) -> list[str]:
        """Sentences of `text`, stripped; empty ones left out."""
        text = self.prepare(text)
        if self.needs_whole(text):
            return list(self._stock.sent_tokenize(text))
        return [sentence for first, last in self.span_tokenize(text) if (sentence := text[first:last].strip())]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Where each sentence of `text` begins and ends, in characters."""
        text = self.prepare(text)
        if self.needs_whole(text):
            return list(self._stock.span_tokenize(text))
        self._learn(text.split())
        return list(self._spans(text))

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        begin: int | None = None
        end, closed = 0, False
        for start, stop in [*(match.span() for match in _CHUNK.finditer(text)), (len(text), len(text))]:
            # one blank belongs to the token before it; other white space is a token of its own
            blank = end + 1 if begin is not None and text[end:start][:1] == " " else end
            if blank < start:
                if begin is None:
                    begin = blank
                elif closed:
                    yield begin, end
                    begin, closed = blank, False
                end = start
            if start == stop:
                break
            if begin is None:
                begin = start
            offsets, closed = self._breaks(text[start:stop])[closed]
            for offset in offsets:
                yield begin, start + offset if offset else end
                begin = start + offset
            end = stop
        if begin is not None:
            yield begin, end

    def prepare(self, text: str) -> str:
        """`text` without what spaCy cannot take."""
        return text.replace(_BREAKS_SPACY, "")

    def needs_whole(self, text: str) -> bool:
        """Whether `text` has a special case that spans white space, so that its chunks do not tell its words."""
        return len(self._whole) > 0 and next(self._whole.iter(text), None) is not None

    def forget(self) -> None:
        """Begin anew. See `pipelines.remembered`."""
        self._words.clear()
        self._sentences.clear()

    def _learn(self, chunks: list[str]) -> None:
        WORDS.make_room()
        new = list(set(chunks).difference(self._words))
        WORDS.add(len(new), sum(map(len, new)))
        self._words.update(zip(new, self.cut(new), strict=True))

    def cut(self, chunks: list[str]) -> list[tuple[str, ...]]:
        """The words of each chunk (without white space), not remembered."""
        return [self._affixes.split(chunk) if len(chunk) <= _LONGEST else self._cut_long(chunk) for chunk in chunks]

    def _cut_long(self, chunk: str) -> tuple[str, ...]:
        if self._affixes.is_word(chunk):
            return (chunk,)
        words: list[str] = []
        known: dict[str, str] = {}  # each of many equal words is one object
        for start in range(0, len(chunk), _LONGEST):
            (found,) = self.cut([chunk[start : start + _LONGEST]])
            words += (known.setdefault(word, word) for word in found)
        return tuple(words)

    def _breaks(self, chunk: str) -> _Sentences:
        """Where sentences begin in `chunk`, for text before it that is open and for text that is closed."""
        known = self._sentences.get(chunk)
        if known is None:
            known = self._sentences[chunk] = (self._follow(chunk, False), self._follow(chunk, True))
        return known

    def _follow(self, chunk: str, closed: bool) -> tuple[tuple[int, ...], bool]:
        starts, offset = [], 0
        for word in self._words[chunk]:
            if word in self._marks:
                closed = True
            elif closed and not self._is_punctuation(word):
                starts.append(offset)
                closed = False
            offset += len(word)
        return tuple(starts), closed
