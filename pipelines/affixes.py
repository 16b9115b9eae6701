"""spaCy's rules for cutting a chunk between white space into words, without the objects that spaCy makes of words.

The algorithm is the one documented at https://spacy.io/usage/linguistic-features#how-tokenizer-works, with the patterns
and special cases of a spaCy tokenizer.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from pipelines.alternatives import Edge, Needed


class AffixSplitter:
    """Cuts chunks as a spaCy `Tokenizer` does, but for those in which a special case comes about among the words."""

    def __init__(self, spacy: Any) -> None:
        import ahocorasick
        from spacy.attrs import ORTH

        self._prefix, self._suffix = (
            Edge(spacy.prefix_search or _never, last=False),
            Edge(spacy.suffix_search or _never, last=True),
        )
        self._infixes, self._url = spacy.infix_finditer or _nowhere, spacy.url_match or _never
        self._infix = Needed(self._infixes)
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
        self._longest = max(map(len, self._special), default=0)

    def is_word(self, chunk: str) -> bool:
        """Whether `chunk` is no special case and there is nothing to split off at either end or inside."""
        if chunk in self._special or self._find(self._prefix, chunk, 0) or self._find(self._suffix, chunk, -1):
            return False
        return not any(map(self._infix.__getitem__, chunk)) or next(iter(self._infixes(chunk)), None) is None

    def split(self, chunk: str) -> tuple[str, ...] | None:
        """The words of `chunk`, None where spaCy has to be asked."""
        if not chunk:
            return ()
        if (
            self._prefix[chunk[0]] is None
            and self._suffix[chunk[-1]] is None
            and chunk not in self._special
            and not any(map(self._infix.__getitem__, chunk))
        ):
            return (chunk,)
        text, whole = chunk, self._whole
        before: list[str] = []
        after: list[str] = []
        size = 0
        while text and len(text) != size:
            if (whole and whole(text)) or self._is_special(text):
                break
            size = len(text)
            first = self._find(self._prefix, text, 0)
            if first and self._is_special(rest := text[first:]):
                before.append(text[:first])
                text = rest
                break
            last = self._find(self._suffix, text[first:] if first else text, -1)
            if last and self._is_special(rest := text[:-last]):
                after.append(text[-last:])
                text = rest
                break
            if last and first + last > size:
                last = 0  # the two share characters: the prefix goes first
            if first:
                before.append(text[:first])
            if last:
                after.append(text[-last:])
            text = text[first : size - last]
        words = self._special.get(text) or self._inner(text)
        if before or after:
            words = (*before, *words, *reversed(after))
        return words if self._stays(chunk, words) else None

    @staticmethod
    def _find(edge: Edge, text: str, place: int) -> int:
        """How many characters of `text` to split off at the end at `place`."""
        search = edge[text[place] if text else ""]
        match = search(text) if search is not None else None
        return match.end() - match.start() if match else 0

    def _is_special(self, text: str) -> bool:
        return len(text) <= self._longest and text in self._special

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
        if not any(map(self._infix.__getitem__, text)):
            return (text,)
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
