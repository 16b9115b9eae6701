"""Thresholds of the quality filters. Names and values are those of datatrove's classes; null turns a rule off."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from illada.config.base import Config

Share = Annotated[float, Field(ge=0, le=1)]
OwnShare = Annotated[float, Field(gt=0, le=1)]  # datatrove takes 0 for "off"; here that is null
NGrams = tuple[tuple[Annotated[int, Field(gt=0)], Share], ...]


class GopherRepetition(Config):
    """Shares of a text that repetitions may have (Gopher, arXiv 2112.11446, table A1).

    Of all lines and paragraphs (`_frac`) or of the text's characters: those met before. `top_n_grams`, pairs of (words,
    share of characters): the most frequent n-gram. `dup_n_grams`: all n-grams met before.
    """

    dup_line_frac: OwnShare | None = 0.3
    dup_para_frac: OwnShare | None = 0.3
    dup_line_char_frac: OwnShare | None = 0.2
    dup_para_char_frac: OwnShare | None = 0.2
    top_n_grams: NGrams = ((2, 0.2), (3, 0.18), (4, 0.16))
    dup_n_grams: NGrams = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


class GopherQuality(Config):
    """Bounds on words, symbols and lines (Gopher, arXiv 2112.11446, appendix A.1.1).

    Words of punctuation alone do not count as words of the document. `max_non_alpha_words_ratio` is, as in datatrove,
    the least share of words that have a letter. Stop words are the function words of the document's language.
    """

    min_doc_words: int | None = Field(default=50, gt=0)
    max_doc_words: int | None = Field(default=100_000, gt=0)
    min_avg_word_length: float | None = Field(default=3, gt=0)
    max_avg_word_length: float | None = Field(default=10, gt=0)
    max_symbol_word_ratio: float | None = Field(default=0.1, gt=0)
    max_bullet_lines_ratio: OwnShare | None = 0.9
    max_ellipsis_lines_ratio: OwnShare | None = 0.3
    max_non_alpha_words_ratio: OwnShare | None = 0.8
    min_stop_words: int | None = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        for least, most in (("min_doc_words", "max_doc_words"), ("min_avg_word_length", "max_avg_word_length")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"no document can pass: {least} {low} is above {most} {high}")
        return self


class C4(Config):
    """Which lines are removed, and which documents are dropped (C4, arXiv 1910.10683).

    `filter_no_terminal_punct`, which removes lines without punctuation at their end, is off, as in FineWeb.
    """

    remove_citations: bool = True
    filter_no_terminal_punct: bool = False
    min_num_sentences: int = Field(default=5, ge=0)
    min_words_per_line: int = Field(default=3, ge=0)
    max_word_length: int | None = Field(default=1000, gt=0)
    filter_lorem_ipsum: bool = True
    filter_javascript: bool = True
    filter_curly_bracket: bool = True
    filter_policy: bool = True


class FineWeb(Config):
    """Statistics of lines (FineWeb, arXiv 2406.17557): how many end in punctuation (`line_punct_thr`, at least), are no
    longer than `short_line_length`, repeat others (characters), and how many there are to a word (at most)."""

    line_punct_thr: Share = 0.12
    line_punct_exclude_zero: bool = False
    short_line_thr: Share = 0.67
    short_line_length: int = Field(default=30, ge=0)
    char_duplicates_ratio: Share = 0.01
    new_line_ratio: float = Field(default=0.3, ge=0)
