"""Words of texts as numbers, with what the quality filters ask about each word worked out once.

The words are those of a datatrove tokenizer. Where it is a `ChunkTokenizer`, what lies between white space is looked up
whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from datatrove.utils.text import PUNCTUATION_SET
from datatrove.utils.word_tokenizers import WordTokenizer

from pipelines.remembered import WORDS
from pipelines.repetition_kernels import BASE, INVERSE, expand, measure
from pipelines.startup import numba_alone
from pipelines.words import ChunkTokenizer

Ids = npt.NDArray[np.int32]
ALPHABETIC, NOT_PUNCTUATION, STOP_WORD, SPACED = 1, 2, 4, 8


class TokenTable:
    """Numbers the words of one language. Numbers hold until the next text is encoded, in any language."""

    def __init__(self, tokenizer: WordTokenizer, stop_words: Collection[str] = ()) -> None:
        self.tokenizer, self._stop_words = tokenizer, frozenset(stop_words)
        numba_alone()
        self.forget()
        WORDS.join(self)

    def forget(self) -> None:
        """Begin anew. See `pipelines.remembered`."""
        self._chunks: dict[str, int] = {}
        self._bounds, self._words = _Array(np.int64), _Array(np.int32)
        self._bounds.extend([0])
        self._ids: dict[str, int] = {}
        self._lengths, self._starts, self._codes = _Array(np.int64), _Array(np.int64), _Array(np.uint32)
        self._hashes, self._powers, self._inverses = (_Array(np.uint64) for _ in range(3))
        self._flags = _Array(np.uint8)
        self._last: tuple[str, Ids] | None = None

    def encode(self, text: str) -> Ids:
        """The words of `text`. That of the same text once more is remembered."""
        if self._last is not None and self._last[0] == text:
            return self._last[1]
        WORDS.make_room()
        tokenizer = self.tokenizer
        if isinstance(tokenizer, ChunkTokenizer) and not tokenizer.needs_whole(text):
            ids = self._encode_chunks(tokenizer, tokenizer.prepare(text).split())
        else:
            ids = self._number(tokenizer.word_tokenize(text))
        self._last = text, ids
        return ids

    def _encode_chunks(self, tokenizer: ChunkTokenizer, chunks: list[str]) -> Ids:
        numbers = np.fromiter(map(self._chunks.get, chunks, repeat(-1)), np.int64, len(chunks))
        if len(numbers) and numbers.min() < 0:
            new = list(dict.fromkeys(chunk for chunk, number in zip(chunks, numbers, strict=True) if number < 0))
            cut = tokenizer.cut(new)
            bounds = self._words.size + np.cumsum([len(words) for words in cut])
            self._words.extend(self._number([word for words in cut for word in words]))
            self._chunks.update(zip(new, range(len(self._chunks), len(self._chunks) + len(new)), strict=True))
            self._bounds.extend(bounds)
            WORDS.add(len(new), sum(map(len, new)))
            numbers = np.fromiter(map(self._chunks.__getitem__, chunks), np.int64, len(chunks))
        ids: Ids = expand(numbers, self._bounds.filled, self._words.filled)
        return ids

    def _number(self, words: Sequence[str]) -> Ids:
        known = self._ids
        new = [word for word in dict.fromkeys(words) if word not in known]
        if new:
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            lengths = np.array([len(word) for word in new], np.int64)
            starts = self._codes.size + np.cumsum(lengths) - lengths
            codes = np.frombuffer("".join(new).encode("utf-32-le", errors="surrogatepass"), np.uint32)
            self._codes.extend(codes)
            WORDS.add(len(new), len(codes))
            self._lengths.extend(lengths)
            self._starts.extend(starts)
            measured = measure(self._codes.filled, starts, lengths, np.uint64(BASE), np.uint64(INVERSE))
            for array, values in zip((self._hashes, self._powers, self._inverses), measured, strict=True):
                array.extend(values)
            self._flags.extend([self._flag(word) for word in new])
        return np.fromiter(map(known.__getitem__, words), np.int32, len(words))

    def _flag(self, word: str) -> int:
        return (
            ALPHABETIC * (word.isalpha() or any(character.isalpha() for character in word))
            + NOT_PUNCTUATION * (not PUNCTUATION_SET.issuperset(word))
            + STOP_WORD * (word in self._stop_words)
            + SPACED * (" " in word)
        )

    def lengths(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Characters of each of `ids`."""
        return self._lengths.filled[ids]

    def flags(self, ids: Ids) -> npt.NDArray[np.uint8]:
        """ALPHABETIC, NOT_PUNCTUATION, STOP_WORD, SPACED of each of `ids`, added up."""
        return self._flags.filled[ids]

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """lengths, starts, codes, hashes, powers, inverses; see `pipelines.repetition_kernels`."""
        parts = (self._lengths, self._starts, self._codes, self._hashes, self._powers, self._inverses)
        return tuple(part.filled for part in parts)


class _Array:
    """An array that grows at its end."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._data, self.size = np.empty(1024, dtype), 0

    def extend(self, values: Any) -> None:
        end = self.size + len(values)
        if end > len(self._data):
            grown = np.empty(max(end, 2 * len(self._data)), self._data.dtype)
            grown[: self.size] = self._data[: self.size]
            self._data = grown
        self._data[self.size : end] = values
        self.size = end

    @property
    def filled(self) -> npt.NDArray[Any]:
        return self._data[: self.size]
