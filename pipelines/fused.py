"""Gopher repetition, Gopher quality, C4 and FineWeb in one pass, with the decisions, reasons and texts of datatrove.

A `FusedQualityFilter` is given the stock filters and takes their thresholds. A text is cut into words once, words are
numbers, n-grams are compared in compiled loops; what the stock classes find in a second way is found here in a faster
one. Sources of the rules: arXiv 2112.11446 (table A1, appendix A.1.1), arXiv 1910.10683, arXiv 2406.17557.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX, ELLIPSIS, END_PUNCTUATION, POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.word_tokenizers import WordTokenizer
from numpy.typing import NDArray

from pipelines.repetition_kernels import MIX, NONE, broken_rule
from pipelines.tokens import ALPHABETIC, NOT_PUNCTUATION, SPACED, STOP_WORD, TokenTable

Rule = Callable[[Document], str | None]
"""The reason for which a document is dropped, or None; C4's replaces the text of what it keeps."""

STEPS = {
    GopherRepetitionFilter: "gopher-repetition",
    GopherQualityFilter: "gopher-quality",
    C4QualityFilter: "c4",
    FineWebQualityFilter: "fineweb",
}


class FusedQualityFilter(BaseFilter):
    """Decides as `filters` (of the four classes, each at most once) do one after the other, for texts of one language.

    Their own `language` does not matter: `tokenizer` cuts the words. `rules` are the parts by name, in order.
    """

    name = "quality, fused"

    def __init__(self, filters: Sequence[BaseFilter], tokenizer: WordTokenizer, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        stop_words = [word for stock in filters for word in getattr(stock, "stop_words", ())]
        tokens = TokenTable(tokenizer, stop_words)
        self.rules: dict[str, Rule] = {STEPS[type(stock)]: _RULES[type(stock)](stock, tokens) for stock in filters}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """As datatrove asks."""
        for rule in self.rules.values():
            reason = rule(doc)
            if reason is not None:
                return False, reason
        return True


class _Repetition:
    def __init__(self, stock: GopherRepetitionFilter, tokens: TokenTable) -> None:
        self._stock, self._tokens = stock, tokens
        rules = (stock.top_n_grams, stock.dup_n_grams)
        self._arrays: list[NDArray[Any]] = [
            np.array([rule[k] for rule in part], dtype) for part in rules for k, dtype in enumerate((int, float))
        ]
        self._reasons = [f"top_{n}_gram" for n, _ in rules[0]] + [f"duplicated_{n}_n_grams" for n, _ in rules[1]]
        self._whole = GopherRepetitionFilter(
            top_n_grams=stock.top_n_grams, dup_n_grams=stock.dup_n_grams, language=tokens.tokenizer
        )

    def __call__(self, document: Document) -> str | None:
        text, stock = document.text, self._stock
        if not text:
            return "empty"
        stripped = text.strip()
        parts = stock.paragraph_exp.split(stripped) if "\n\n" in stripped else [stripped]
        reason = _duplicates(parts, len(text), stock.dup_para_frac, stock.dup_para_char_frac, "dup_para")
        if reason is None:
            parts = stock._line_splitter.split(text) if "\n\n" in text else text.split("\n")
            reason = _duplicates(parts, len(text), stock.dup_line_frac, stock.dup_line_char_frac, "dup_line")
        if reason is not None:
            return reason
        ids = self._tokens.encode(text)
        if (self._tokens.flags(ids) & SPACED).any():  # only strings tell whether "a b" + "c" is "a" + "b c"
            verdict = self._whole.filter(document)
            return None if verdict is True else verdict[1]
        broken = broken_rule(ids, *self._tokens.arrays, len(text), *self._arrays, MIX)
        return None if broken == NONE else self._reasons[broken]


def _duplicates(parts: list[str], characters: int, most: float, most_characters: float, name: str) -> str | None:
    if len(parts) == 1 or len(set(parts)) == len(parts):
        return None
    count, size = find_duplicates(parts)
    if most and count / len(parts) > most:
        return f"{name}_frac"
    if most_characters and size / characters > most_characters:
        return f"{name}_char_frac"
    return None


class _Quality:
    def __init__(self, stock: GopherQualityFilter, tokens: TokenTable) -> None:
        self._stock, self._tokens = stock, tokens

    def __call__(self, document: Document) -> str | None:
        text, stock = document.text, self._stock
        ids = self._tokens.encode(text)
        flags, count = self._tokens.flags(ids), len(ids)
        words = ids[flags & NOT_PUNCTUATION != 0]
        if stock.min_doc_words and len(words) < stock.min_doc_words:
            return "gopher_short_doc"
        if stock.max_doc_words and len(words) > stock.max_doc_words:
            return "gopher_long_doc"
        if len(words):
            mean = int(self._tokens.lengths(words).sum()) / len(words)
            if stock.min_avg_word_length and mean < stock.min_avg_word_length:
                return "gopher_below_avg_threshold"
            if stock.max_avg_word_length and mean > stock.max_avg_word_length:
                return "gopher_above_avg_threshold"
        if stock.max_symbol_word_ratio and text.count("#") / count > stock.max_symbol_word_ratio:
            return "gopher_too_many_hashes"
        if stock.max_symbol_word_ratio and (text.count("...") + text.count("…")) / count > stock.max_symbol_word_ratio:
            return "gopher_too_many_ellipsis"
        lines = text.splitlines()
        if stock.max_bullet_lines_ratio and (
            sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > stock.max_bullet_lines_ratio
        ):
            return "gopher_too_many_bullets"
        if stock.max_ellipsis_lines_ratio and (
            sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > stock.max_ellipsis_lines_ratio
        ):
            return "gopher_too_many_end_ellipsis"
        alphabetic = int(np.count_nonzero(flags & ALPHABETIC))
        if stock.max_non_alpha_words_ratio and alphabetic / count < stock.max_non_alpha_words_ratio:
            return "gopher_below_alpha_threshold"
        if stock.min_stop_words and len(np.unique(ids[flags & STOP_WORD != 0])) < stock.min_stop_words:
            return "gopher_enough_stop_words"
        return None


class _C4:
    def __init__(self, stock: C4QualityFilter, tokens: TokenTable) -> None:
        if not stock.split_paragraph:
            raise ValueError("C4 by sentences (split_paragraph=False) cannot be fused; use datatrove's class for it")
        self._stock, self._tokenizer = stock, tokens.tokenizer

    def __call__(self, document: Document) -> str | None:
        stock, text, kept = self._stock, document.text, []
        lower = text.lower()
        phrases = [p for p, on in (("lorem ipsum", stock.filter_lorem_ipsum), ("javascript", stock.filter_javascript),
                                   *((p, stock.filter_policy) for p in POLICY_SUBSTRINGS)) if on]  # fmt: skip
        met = any(phrase in lower for phrase in phrases)
        fewest, longest = stock.min_words_per_line, stock.max_word_length
        for raw in text.splitlines():
            line = raw.strip()
            if longest != -1 and len(line) > longest and any(len(word) > longest for word in line.split()):
                continue
            few = fewest > 0 and len(line.split(None, fewest - 1)) < fewest
            cited = stock.remove_citations and "[" in line
            if cited:
                line = CITATION_REGEX.sub("", line)
            if stock.filter_no_terminal_punct and (not line.endswith(END_PUNCTUATION) or line.endswith(ELLIPSIS)):
                continue
            if few:
                continue
            if met or cited:  # without a citation a line holds only what the text holds
                small = line.lower()
                if stock.filter_lorem_ipsum and "lorem ipsum" in small:
                    return "lorem_ipsum"
                if stock.filter_javascript and "javascript" in small:
                    continue
            if stock.filter_curly_bracket and "{" in line:
                return "curly_bracket"
            if (met or cited) and stock.filter_policy and any(phrase in small for phrase in POLICY_SUBSTRINGS):
                continue
            kept.append(line)
        if self._sentences(kept) < stock.min_num_sentences:
            return "too_few_sentences"
        document.text = "\n".join(kept).strip()
        return None

    def _sentences(self, lines: list[str]) -> int:
        """How many there are, or the number of lines where that is enough: datatrove finds one or more in each."""
        if len(lines) >= self._stock.min_num_sentences:
            return len(lines)
        return sum(max(1, len(self._tokenizer.span_tokenize(line))) for line in lines)


class _FineWeb:
    def __init__(self, stock: FineWebQualityFilter, tokens: TokenTable) -> None:
        self._stock, self._tokens = stock, tokens
        self._stops = frozenset(stock.stop_chars)
        self._by_character = all(len(stop) == 1 for stop in self._stops)

    def __call__(self, document: Document) -> str | None:
        stock, text = self._stock, document.text
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return "empty"
        if self._by_character:
            ended = sum(line[-1] in self._stops for line in lines)
        else:
            ended = sum(line.endswith(stock.stop_chars) for line in lines)
        ratio = ended / len(lines)
        if ratio < stock.line_punct_thr and not (ratio == 0 and stock.line_punct_exclude_zero):
            return "line_punct_ratio"
        if sum(len(line) <= stock.short_line_length for line in lines) / len(lines) > stock.short_line_threshold:
            return "short_line_ratio"
        breaks = text.count("\n")
        repeated = 0 if len(set(lines)) == len(lines) else find_duplicates(lines)[1]
        if repeated / (len(text) - breaks) > stock.char_duplicates_ratio:
            return "char_dup_ratio"
        if breaks / len(self._tokens.encode(text)) > stock.new_line_ratio:
            return "list_ratio"
        return None


_RULES: dict[type[BaseFilter], Callable[[Any, TokenTable], Rule]] = {
    GopherRepetitionFilter: _Repetition,
    GopherQualityFilter: _Quality,
    C4QualityFilter: _C4,
    FineWebQualityFilter: _FineWeb,
}
