"""spaCy's rules for cutting a chunk between white space into words, without the objects that spaCy makes of words.

The algorithm is the one documented at https://spacy.io/usage/linguistic-features#how-tokenizer-works, with the patterns
and special cases of a spaCy tokenizer.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any


class AffixSplitter:
    """Cuts chunks as a spaCy `Tokenizer` does, but for those in which a special case comes about among the words."""

    def __init__(self, spacy: Any) -> None:
        import ahocorasick
        from spacy.attrs import ORTH

        self._prefix, self._suffix = spacy.prefix_search or _never, spacy.suffix_search or _never
        self._infixes, self._url = spacy.infix_finditer or _nowhere, spacy.url_match or _never
        self._whole = spacy.token_match
        self._special = {text: tuple(word[ORTH] for word in words) for text, words in spacy.rules.items()}
        self._inside = (
            ahocorasick.Automaton()
        )  # of special cases that affixes take apart: spaCy puts them together again
        for text in self._special:
            if (
                not spacy.faster_heuristics
                or " " in text
                or spacy.find_prefix(text)
                or spacy.find_infix(text)
                or spacy.find_suffix(text)
            ):
                self._inside.add_word(text, text)
        self._inside.make_automaton()

    def is_word(self, chunk: str) -> bool:
        """Whether `chunk` is no special case and there is nothing to split off at either end or inside."""
        found = chunk in self._special or self._prefix(chunk) or self._suffix(chunk)
        return not found and next(iter(self._infixes(chunk)), None) is None

    def split(self, chunk: str) -> tuple[str, ...] | None:
        """The words of `chunk`, None where spaCy has to be asked."""
        text, special, whole = chunk, self._special, self._whole
        before: list[str] = []
        after: list[str] = []
        size = 0
        while text and len(text) != size:
            if (whole and whole(text)) or text in special:
                break
            size = len(text)
            match = self._prefix(text)
            first = match.end() - match.start() if match else 0
            if first and text[first:] in special:
                before.append(text[:first])
                text = text[first:]
                break
            match = self._suffix(text[first:] if first else text)
            last = match.end() - match.start() if match else 0
            if last and text[:-last] in special:
                after.append(text[-last:])
                text = text[:-last]
                break
            if last and first + last > size:
                last = 0  # the two share characters: the prefix goes first
            if first:
                before.append(text[:first])
            if last:
                after.append(text[-last:])
            text = text[first : size - last]
        words = special.get(text) or self._inner(text)
        if before or after:
            words = (*before, *words, *reversed(after))
        return words if self._stays(chunk, words) else None

    def _stays(self, chunk: str, words: tuple[str, ...]) -> bool:
        """Whether no run of `words` is a special case that has other words."""
        found = list(self._inside.iter(chunk))
        if not found:
            return True
        begins = {place: number for number, place in enumerate(accumulate(map(len, words), initial=0))}
        for last, text in found:
            first, end = begins.get(last + 1 - len(text)), begins.get(last + 1)
            if first is not None and end is not None and words[first:end] != self._special[text]:
                return False
        return True

    def _inner(self, text: str) -> tuple[str, ...]:
        """The words of what is left without prefixes and suffixes."""
        if not text:
            return ()
        if (self._whole and self._whole(text)) or self._url(text):
            return (text,)
        words, start = [], 0
        for match in self._infixes(text):
            first, last = match.span()
            if first == 0:
                continue
            if first != start:
                words.append(text[start:first])
            if first != last:
                words.append(text[first:last])
            start = last
        if start < len(text):
            words.append(text[start:])
        return tuple(words)


def _never(text: str) -> None:
    return None


def _nowhere(text: str) -> tuple[Any, ...]:
    return ()
