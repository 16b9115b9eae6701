"""Main text at the speed of resiliparse: its main content, less the blocks that a small network takes for boilerplate.

Resiliparse finds almost all of a page's text, and with it captions, lists of links and teasers. Its result is read once
more, block by block; a network of one hidden layer (see `benchmarks/extraction.py`, which trains and scores it) decides
by length, links, punctuation, mark-up and neighbours, and by no word, so that it knows no language.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.fast.kernels import (
    COMMA,
    DIGIT,
    FEATURES,
    MARK,
    PLAIN,
    SPACE,
    STOP,
    UPPER,
    features,
    join,
    read_blocks,
    scores,
)

WEIGHTS = Path(__file__).with_name("weights.json")
_ENOUGH = 400  # characters of text that is no link
_LEAST = -2.0  # logit of a block that is not worth keeping in any case
Array = np.ndarray[Any, Any]


class Blocks(NamedTuple):
    """A page's text without tags, and where its blocks are."""

    text: Array
    starts: Array
    ends: Array
    gaps: Array
    own: Array

    def texts(self) -> list[str]:
        """The blocks as strings."""
        whole = self.text.tobytes().decode("utf-32-le")
        return [unescape(whole[start:end]) for start, end in zip(self.starts, self.ends, strict=True)]

    def joined(self, keep: Array) -> str:
        """The blocks that are kept as one text."""
        kept = join(self.text, self.starts, self.ends, self.gaps, keep)
        return unescape(kept.tobytes().decode("utf-32-le"))


def main_blocks(tree: Any) -> Blocks:
    """The main content of a resiliparse tree, in blocks."""
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(
        tree, main_content=True, list_bullets=False, alt_texts=False, links=True, preserve_formatting="minimal_html"
    )
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
    return Blocks(*read_blocks(codes, kinds()))


class Network(NamedTuple):
    """Weights of the network, float32, as `pipelines.fast.kernels.scores` takes them."""

    first: Array
    first_bias: Array
    second: Array
    second_bias: np.float32

    def keep(self, blocks: Blocks) -> Array:
        """Which blocks are main text, bool [blocks]: those more likely than not; more of a page with little text."""
        score = scores(features(blocks.own), *self)
        keep = score > 0
        size = np.expm1(blocks.own[:, PLAIN])
        if size[keep].sum() < _ENOUGH:
            best = np.argsort(-score, kind="stable")
            until = np.searchsorted(np.cumsum(size[best]), _ENOUGH) + 1
            keep[best[:until]] = score[best[:until]] >= _LEAST
        return keep


@functools.cache
def network() -> Network:
    """The trained one."""
    stored = json.loads(WEIGHTS.read_text())
    first = np.array(stored["first"], np.float32)
    assert first.shape[0] == FEATURES, "weights are of other features"
    first_bias, second = (np.array(stored[name], np.float32) for name in ("first_bias", "second"))
    return Network(first, first_bias, second, np.float32(stored["second_bias"]))


@functools.cache
def kinds() -> Array:
    """Kind by code point of the basic plane, uint8; what lies beyond is like its last one, a letter."""
    table = np.zeros(2**16, np.uint8)
    for code in range(2**16 - 1):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            table[code] = SPACE
        elif category == "Nd":
            table[code] = DIGIT
        elif category == "Lu":
            table[code] = UPPER
        elif character in ".!?…。！？।؟۔":
            table[code] = STOP
        elif character in ",;:、，；：،؛":
            table[code] = COMMA
        elif character in "|»«›‹©→←•·":
            table[code] = MARK
    return table
