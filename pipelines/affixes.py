"""spaCy's rules for cutting a chunk between white space into words, without the objects that spaCy makes of words.

The algorithm is the one documented at https://spacy.io/usage/linguistic-features#how-tokenizer-works, with the patterns
and special cases of a spaCy tokenizer.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

from pipelines.alternatives import Edge, Needed

_Words = tuple[str, ...]


class AffixSplitter:
    """Cuts chunks as a spaCy `Tokenizer` does."""

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
        self._special: dict[str, _Words] = {}
        self._longest = 0
        special = {text: tuple(word[ORTH] for word in words) for text, words in spacy.rules.items()}
        # what special cases that affixes take apart are cut into; one with blanks counts without them, too
        self._apart: dict[str, set[_Words]] = {}
        for text in special:
            affixes = spacy.find_prefix(text) or spacy.find_infix(text) or spacy.find_suffix(text)
            if affixes or " " in text or not spacy.faster_heuristics:
                parts = tuple(word for part in text.split() for word in self._cut(part))
                self._apart.setdefault("".join(parts), set()).add(parts)
        self._inside = ahocorasick.Automaton()
        for text in self._apart:
            self._inside.add_word(text, text)
        self._inside.make_automaton()
        self._special, self._longest = special, max(map(len, special), default=0)

    def is_word(self, chunk: str) -> bool:
        """Whether `chunk` is no special case and there is nothing to split off at either end or inside."""
        if chunk in self._special or self._match(self._prefix, chunk, 0) or self._match(self._suffix, chunk, -1):
            return False
        return not any(map(self._infix.__getitem__, chunk)) or next(iter(self._infixes(chunk)), None) is None

    def split(self, chunk: str) -> _Words:
        """The words of `chunk`."""
        if not chunk:
            return ()
        if (
            self._prefix[chunk[0]] is None
            and self._suffix[chunk[-1]] is None
            and chunk not in self._special
            and not any(map(self._infix.__getitem__, chunk))
        ):
            return (chunk,)
        return self._put_together(chunk, self._cut(chunk))

    def _cut(self, chunk: str) -> _Words:
        """Words, special cases only where affixes around them are split off."""
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
        return words

    @staticmethod
    def _match(edge: Edge, text: str, place: int) -> re.Match[str] | None:
        """What can be split off `text` at the end at `place`."""
        search = edge[text[place] if text else ""]
        return search(text) if search is not None else None

    def _find(self, edge: Edge, text: str, place: int) -> int:
        """How many characters that has."""
        match = self._match(edge, text, place)
        return match.end() - match.start() if match else 0

    def _is_special(self, text: str) -> bool:
        return len(text) <= self._longest and text in self._special

    def _put_together(self, chunk: str, words: _Words) -> _Words:
        """`words` of `chunk` with special cases for what they were cut into: the longest first, then the first."""
        found = list(self._inside.iter(chunk))
        if not found:
            return words
        numbers = {place: number for number, place in enumerate(accumulate(map(len, words), initial=0))}
        spans = []
        for last, text in found:
            first, end = numbers.get(last + 1 - len(text)), numbers.get(last + 1)
            if first is not None and end is not None and words[first:end] in self._apart[text]:
                spans.append((first - end, first, text))
        taken: set[int] = set()
        chosen = []
        for size, first, text in sorted(spans):
            if first not in taken and first - size - 1 not in taken:
                chosen.append((first, first - size, text))
            taken.update(range(first, first - size))  # by what is not chosen, too, as in spaCy
        result: list[str] = []
        done = 0
        for first, end, text in sorted(chosen):
            result += [*words[done:first], *self._special.get(text, words[first:end])]
            done = end
        return (*result, *words[done:])

    def _inner(self, text: str) -> _Words:
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
