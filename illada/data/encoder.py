"""Text to ids in bulk: documents in, one flat array of ids and their offsets out, with nothing per token in Python.

`tokenizers` is the reference. gigatoken encodes byte-level BPE many times faster, but only for split expressions it
knows by heart; it is used where it proves to give the reference's ids, and by nobody's word: see `differences`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from illada.data.tokenizer import BOS_ID, EOS_ID, SPECIAL_TOKENS, TextTokenizer

PROBES: tuple[str, ...] = (
    "",
    " ".join(SPECIAL_TOKENS),
    "".join(SPECIAL_TOKENS) + "user\nwhat?<|im_end",
    "\0\0a\0 \x1c\x1d\x1e\x1f\x7f\x80\x85\xa0\xad\ufeff",
    "a" * 20_000,
    " " * 5_000 + "x",
    "\n" * 3_000 + "\r\n\r\n \r x\r\t\t\v\f",
    "don't DON'T l'arbre 'tis K'Re \u017f'S '\u017f x'LL \u2019s ''s",
    "e\u0301\u0302" * 50 + "\u0301\u0300 \u0308x",
    "0123456789 \u0661\u0662\u0663 \u2167 \xbd 3.14159e-10",
    "\u0645\u0631\u062d\u0628\u0627 \u200f\u200b\u2060\u200d \u05e9\u05dc\u05d5\u05dd",
    "\U0001f3f3\ufe0f\u200d\U0001f308\U0001f469\u200d\U0001f467 \U0010ffff\ue000\ufffd\uffff",
    "".join(chr(code) for block in range(0x20, 0x33480, 0x40) for code in range(block, block + 8)
            if unicodedata.category(chr(code)) not in ("Cn", "Cs")),
)  # fmt: skip
"""What encoders are known to differ in: text that spells special tokens, NULs, long runs, marks, all scripts."""


def _recent() -> str:
    """Expression for a character that is unassigned in Python's version of Unicode, but may be assigned in another."""

    def recent(code: int) -> bool:
        never = 0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE  # the standard's noncharacters
        return unicodedata.category(chr(code)) == "Cn" and not never

    runs = (list(codes) for found, codes in groupby(range(0x110000), recent) if found)
    return "[" + "".join(f"\\x{{{codes[0]:x}}}-\\x{{{codes[-1]:x}}}" for codes in runs) + "]"


class EncoderError(ValueError):
    """A tokenizer that an encoder cannot take, or text that it fails at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Ids of several texts: text k has `ids[offsets[k]:offsets[k + 1]]`."""

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]

    def of(self, text: int) -> NDArray[np.uint32]:
        """The ids of one text."""
        return self.ids[self.offsets[text] : self.offsets[text + 1]]


class Encoder(Protocol):
    """Never gives a special id."""

    @property
    def name(self) -> str:
        """Library and version."""

    def encode(self, texts: pa.Array) -> Encoded:
        """Ids of `texts` (large_string [texts], no nulls)."""


class ReferenceEncoder:
    """`tokenizers`."""

    name = f"tokenizers {version('tokenizers')}"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: pa.Array) -> Encoded:
        """See `Encoder`."""
        encoded = self._tokenizer.encode_batch(texts.to_pylist())
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
        ids = np.concatenate([np.empty(0, np.int64), *encoded])
        return Encoded(ids=ids.astype(np.uint32), offsets=offsets)


class FastEncoder:
    """gigatoken, on the calling thread, from a tokenizer folder.

    Texts with characters that are newer than Python's version of Unicode are left to the reference: what class such a
    character has, and with it where text is split, depends on the version each library knows.

    Raises:
        EncoderError: it does not know the tokenizer's split expression.
    """

    name = f"gigatoken {version('gigatoken')}"

    def __init__(self, folder: Path) -> None:
        import gigatoken

        self._reference = ReferenceEncoder(TextTokenizer.load(folder))
        self._recent = _recent()
        description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        description["added_tokens"] = []  # text that spells a special token stays text
        try:
            self._backend = gigatoken.Tokenizer.from_json(json.dumps(description))
        except Exception as error:  # of whatever kind: it has no class of its own
            raise EncoderError(f"gigatoken does not take this tokenizer ({str(error).splitlines()[0]})") from None

    def encode(self, texts: pa.Array) -> Encoded:
        """See `Encoder`. Raises EncoderError for whatever goes wrong in it."""
        import awkward as ak

        if not len(texts):
            return Encoded(ids=np.empty(0, np.uint32), offsets=np.zeros(1, np.int64))
        try:
            layout = ak.to_packed(self._backend.encode_batch(ak.from_arrow(texts), parallel=False)).layout
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise EncoderError(f"gigatoken failed ({type(error).__name__}: {error})") from None  # its panics, too
        encoded = Encoded(ids=np.asarray(layout.content.data), offsets=np.asarray(layout.offsets.data))
        recent = pc.indices_nonzero(pc.match_substring_regex(texts, self._recent)).to_pylist()
        return _replaced(encoded, recent, self._reference.encode(texts.take(recent))) if recent else encoded


def _replaced(encoded: Encoded, texts: Sequence[int], others: Encoded) -> Encoded:
    """`encoded`, with the ids of `texts` in it from `others`, where they are all there is."""
    ids = [encoded.of(text) for text in range(len(encoded.offsets) - 1)]
    for number, text in enumerate(texts):
        ids[text] = others.of(number)
    offsets = np.zeros(len(encoded.offsets), np.int64)
    np.cumsum([len(each) for each in ids], out=offsets[1:])
    return Encoded(ids=np.concatenate(ids), offsets=offsets)


def differences(encoder: Encoder, reference: Encoder, texts: Sequence[str]) -> list[int]:
    """Which of `texts` have other ids from `encoder` than from `reference`. Raises EncoderError."""
    array = pa.array(texts, pa.large_string())
    got, expected = encoder.encode(array), reference.encode(array)
    return [number for number in range(len(texts)) if not np.array_equal(got.of(number), expected.of(number))]


def enclosed(encoded: Encoded, dtype: DTypeLike) -> pa.ListArray:
    """Each text's ids between BOS and EOS, as the column `input_ids` of a shard.

    Raises:
        ValueError: more than 2**31 - 1 ids, which Arrow's lists do not hold.
    """
    count = len(encoded.offsets) - 1
    offsets = encoded.offsets + 2 * np.arange(count + 1)
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{count} documents have {offsets[-1]:,} tokens together, more than a shard can hold")
    ids = np.empty(offsets[-1], dtype)
    inside = np.ones(len(ids), bool)
    inside[offsets[:-1]] = inside[offsets[1:] - 1] = False
    ids[inside] = encoded.ids
    ids[offsets[:-1]], ids[offsets[1:] - 1] = BOS_ID, EOS_ID
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids))
