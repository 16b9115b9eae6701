"""An exact index of the word n-grams of some texts, and the search for them in other texts.

Words of the indexed texts get numbers; a word that is none of them cannot be part of a match, so the index alone bounds
the memory. A text's windows of n numbers are hashed together with NumPy (a polynomial modulo 2^64), looked up, and what
is found is compared number by number: a match is a match, and none is missed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from illada.artifacts import Folder
from pipelines.shared import share

_WORD = re.compile(r"[^\W_]+")
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93)  # odd; the next one on a collision
_WORDS, _ARRAYS = "words.txt", "ngrams.npz"


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramIndex:
    """`grams[k]` (word numbers) has the hash `hashes[k]`, ascending; `owners[starts[k]:starts[k+1]]` hold it."""

    vocabulary: dict[str, int]
    multiplier: int
    hashes: npt.NDArray[np.uint64]
    grams: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]

    @classmethod
    def build(cls, texts: Iterable[tuple[int, str]], n: int) -> NgramIndex:
        """The index of texts, each with its owner's number; several texts may have the same owner."""
        vocabulary: dict[str, int] = {}
        windows = [np.empty((0, n), np.uint32)]
        numbers = [np.empty(0, np.int64)]
        for owner, text in texts:
            ids = np.array([vocabulary.setdefault(word, len(vocabulary) + 1) for word in words(text)], np.uint32)
            if len(ids) >= n:
                windows.append(np.lib.stride_tricks.sliding_window_view(ids, n))
                numbers.append(np.full(len(ids) - n + 1, owner, np.int64))
        grams, owners = np.concatenate(windows), np.concatenate(numbers)
        for multiplier in _MULTIPLIERS:
            hashes = _hash(grams, multiplier)
            order = np.lexsort((owners, hashes))
            sorted_hashes, sorted_grams = hashes[order], grams[order]
            first = np.append(True, sorted_hashes[1:] != sorted_hashes[:-1])[: len(order)]
            leaders = np.flatnonzero(first)
            if (sorted_grams == sorted_grams[leaders[np.cumsum(first) - 1]]).all():
                return cls(
                    vocabulary=vocabulary,
                    multiplier=multiplier,
                    hashes=sorted_hashes[leaders],
                    grams=sorted_grams[leaders],
                    starts=np.append(leaders, len(order)).astype(np.int64),
                    owners=owners[order],
                )
        raise AssertionError("64-bit hashes collided under every multiplier")

    def find(self, text: str) -> list[tuple[int, str]]:
        """(k, its words) for every n-gram k of the index that occurs in `text`, each once, in the order of the text."""
        found, n = words(text), self.grams.shape[1]
        matches: dict[int, int] = {}
        for position, place in self._matches(found):
            matches.setdefault(place, position)
        return [(place, " ".join(found[position : position + n])) for place, position in matches.items()]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, k) in characters of `text` for every occurrence of an n-gram k, in the order of the text."""
        matches = self._matches(words(text))
        if not matches:
            return []
        n, lower = self.grams.shape[1], text.lower()
        places = [match.span() for match in _WORD.finditer(lower)]
        if len(lower) != len(text):  # some letter has a lower case of two: back to the letters of the text
            origin = [place for place, letter in enumerate(text) for _ in letter.lower()]
            places = [(origin[start], origin[end - 1] + 1) for start, end in places]
        return [(places[position][0], places[position + n - 1][1], gram) for position, gram in matches]

    def _matches(self, found: Sequence[str]) -> list[tuple[int, int]]:
        """(position, k) of the occurrences among the words `found`, in order."""
        n = self.grams.shape[1]
        get = self.vocabulary.get
        ids = np.fromiter((get(word, 0) for word in found), np.uint32, len(found))
        if len(ids) < n or not len(self.hashes):
            return []
        unknown = np.append(0, np.cumsum(ids == 0))
        positions = np.flatnonzero(unknown[n:] == unknown[:-n])
        if not len(positions):
            return []
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)[positions]
        hashes = _hash(windows, self.multiplier)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        match = self.hashes[places] == hashes
        match[match] = (self.grams[places[match]] == windows[match]).all(axis=1)
        return list(zip(positions[match].tolist(), places[match].tolist(), strict=True))

    def owners_of(self, grams: Sequence[int]) -> list[int]:
        """The numbers of all texts that hold one of these n-grams, ascending."""
        spans = [self.owners[self.starts[gram] : self.starts[gram + 1]] for gram in grams]
        return np.unique(np.concatenate(spans)).tolist() if spans else []

    def share(self, folder: Path, work: Folder) -> list[dict[str, str]]:
        """Write the index into the local `folder`, and make it visible to all nodes; see `pipelines.shared`."""
        return [share(path, work) for path in self.save(folder)]

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write the index into `folder`, which is made; returns the paths of its two files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _WORDS).write_text("\n".join(self.vocabulary), encoding="utf-8")
        np.savez(
            folder / _ARRAYS,
            multiplier=np.uint64(self.multiplier),
            hashes=self.hashes,
            grams=self.grams,
            starts=self.starts,
            owners=self.owners,
        )
        return folder / _WORDS, folder / _ARRAYS

    @classmethod
    def load(cls, words: Path, numbers: Path) -> NgramIndex:
        """Inverse of `save`, from its two files wherever they are."""
        listed = words.read_text(encoding="utf-8").split("\n")
        with np.load(numbers, allow_pickle=False) as arrays:
            return cls(
                vocabulary={word: number for number, word in enumerate(listed, start=1)},
                multiplier=int(arrays["multiplier"]),
                **{name: arrays[name] for name in ("hashes", "grams", "starts", "owners")},
            )


def _hash(grams: npt.NDArray[np.uint32], multiplier: int) -> npt.NDArray[np.uint64]:
    """uint64 [k] of word numbers [k, n]."""
    result = np.zeros(len(grams), np.uint64)
    for column in grams.T:
        result = result * np.uint64(multiplier) + column
    return result
