"""Gopher's repetition filter (arXiv 2112.11446, table A1) with datatrove's decisions at a fraction of the time.

Nearly all of its time goes into n-grams that turn out not to repeat enough. Upper bounds on what they could come to, by
hashes of character ranges, clear most documents; only the rest is given to datatrove's filter to decide. Equal n-grams
have equal hashes, so a bound is never too low, whatever the collisions.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.pipeline.filters import GopherRepetitionFilter
from datatrove.utils.text import split_into_words
from datatrove.utils.word_tokenizers import WordTokenizer

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)
_LONGEST = 2**21  # characters; tables of powers are that long


class FastRepetitionFilter(GopherRepetitionFilter):
    """`GopherRepetitionFilter` with the default thresholds for one language."""

    def __init__(self, language: WordTokenizer) -> None:
        super().__init__(language=language)
        self._lines_only = GopherRepetitionFilter(top_n_grams=(), dup_n_grams=(), language=language)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """As the stock filter decides."""
        words = split_into_words(doc.text, self.language)
        return super().filter(doc) if self._may_repeat(words, len(doc.text)) else self._lines_only.filter(doc)

    def _may_repeat(self, words: list[str], length: int) -> bool:
        """Whether any n-gram rule could reject a text of `words` and `length` characters."""
        if length > _LONGEST:
            return True
        ends = np.cumsum([0, *map(len, words)])  # W+1 offsets of the words in their concatenation
        prefix = _prefix_hashes("".join(words))
        for n, fraction in self.top_n_grams:
            order, hashes = _sorted_ngrams(prefix, ends, n)
            if not len(order):
                continue
            sizes = ends[order + n] - ends[order] + n - 1  # datatrove joins these with blanks
            runs = np.flatnonzero(np.diff(hashes, prepend=hashes[0] + np.uint64(1)))
            counts = np.diff(runs, append=len(hashes))
            if (np.maximum.reduceat(sizes, runs) * counts).max() > fraction * length:
                return True
        for n, fraction in self.dup_n_grams:
            order, hashes = _sorted_ngrams(prefix, ends, n)
            repeated = np.sort(order[1:][hashes[1:] == hashes[:-1]])
            # what the greedy count of disjoint repeated n-grams can cover at most: their union
            if len(repeated):
                starts, stops = ends[repeated], ends[repeated + n]
                covered = np.minimum(stops[:-1], starts[1:]) - starts[:-1]
                if covered.sum() + stops[-1] - starts[-1] > fraction * length:
                    return True
        return False


def _prefix_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Sums of (character x power of the base) modulo 2^64 over the first 0, 1, 2... characters."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    prefix = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes + np.uint64(1)) * _powers(_BASE, len(codes)), out=prefix[1:])
    return prefix


def _sorted_ngrams(
    prefix: npt.NDArray[np.uint64], ends: npt.NDArray[np.int64], n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Positions of all n-grams sorted by hash, those of one hash in order, and their sorted hashes."""
    first, last = ends[: max(len(ends) - n, 0)], ends[n:]
    hashes = (prefix[last] - prefix[first]) * _powers(_INVERSE, len(prefix))[first]
    order = np.argsort(hashes, kind="stable")
    return order, hashes[order]


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    return _power_table(base, max(16, (count - 1).bit_length()))[:count]


@functools.lru_cache(maxsize=8)
def _power_table(base: int, bits: int) -> npt.NDArray[np.uint64]:
    """The powers 0 ... 2^bits - 1 of `base` modulo 2^64."""
    table = np.full(2**bits, base, dtype=np.uint64)
    table[0] = 1
    return np.multiply.accumulate(table)
