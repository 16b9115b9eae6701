"""The byte-level BPE tokenizer: training, a `transformers`-loadable folder, and encoding that never loses a byte.

Byte-level BPE (Radford et al., "Language models are unsupervised multitask learners", 2019): text is split by one
regular expression, the UTF-8 bytes of each piece are merged. There is no normalisation, so decoding gives back every
character, and the 256 byte tokens encode what is not UTF-8 at all. Digits stand alone: numbers are spelt one way.

Special tokens come first, with `<[MASK]>` at 5 as in iLLaDA (arXiv 2606.25331); text that spells one stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from illada.artifacts import write_json, write_text

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>", "<|im_start|>", "<[MASK]>", "<|im_end|>")
PAD_ID, BOS_ID, EOS_ID, UNK_ID, IM_START_ID, MASK_ID, IM_END_ID = range(len(SPECIAL_TOKENS))
ROLES = ("system", "user", "assistant")

_SPLIT = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # an English contraction
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",  # a word, with the space, dot, quote or bracket before it
        r"\p{N}",  # one digit
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",  # symbols, with the line ends after them
        r"\s*[\r\n]+",  # line ends, with the blanks before them
        r"\s+(?!\S)",  # blanks, all but the last, which goes with what follows
        r"\s+",
    )
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] | trim) + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- elif messages and messages[-1]['role'] == 'assistant' -%}{{- '<|eos|>' -}}"
    "{%- endif -%}"
)

Message = Mapping[str, str]
"""One turn of a conversation: {"role": one of ROLES, "content": text}."""


class TokenizerError(ValueError):
    """A tokenizer folder that cannot be used, or text that cannot be encoded; says which and why."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, min_frequency: int) -> BackendTokenizer:
    """Train byte-level BPE; deterministic in the order and content of `texts`. The vocabulary may come out smaller."""
    tokenizer = BackendTokenizer(BPE())
    tokenizer.pre_tokenizer = PreTokenizers(
        [Split(Regex(_SPLIT), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIAL_TOKENS[BOS_ID]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, BOS_ID)]
    )
    return tokenizer


def save_tokenizer(tokenizer: BackendTokenizer, folder: Path) -> None:
    """Write the folder that `TextTokenizer.load` and `transformers.AutoTokenizer.from_pretrained` open."""
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIAL_TOKENS[PAD_ID],
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "unk_token": SPECIAL_TOKENS[UNK_ID],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(folder / "tokenizer_config.json", config)


class TextTokenizer:
    """Encodes and decodes with a trained tokenizer; special ids appear only where this class puts them."""

    def __init__(self, backend: BackendTokenizer) -> None:
        backend.encode_special_tokens = True  # a document that spells a special token must not contain it
        self._backend = backend
        self._pieces = _token_bytes(backend)
        self._byte_ids = np.empty(256, dtype=np.int64)
        for index in range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + 256):
            self._byte_ids[self._pieces[index][0]] = index
        self.token_bytes: NDArray[np.int32] = np.array([len(piece) for piece in self._pieces], dtype=np.int32)
        self._newline = self.encode("\n").tolist()

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Open a tokenizer folder. Raises TokenizerError when it has no usable tokenizer.json."""
        path = folder / "tokenizer.json"
        try:
            backend = BackendTokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the backend raises bare Exception for anything it cannot parse
            raise TokenizerError(f"{path}: is not a readable tokenizer ({error})") from None
        if any(backend.token_to_id(token) != index for index, token in enumerate(SPECIAL_TOKENS)):
            raise TokenizerError(f"{path}: its first tokens are not {', '.join(SPECIAL_TOKENS)}; not made by illada")
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._pieces)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids of `text`, never a special one. Raises TokenizerError for unpaired surrogates (see `encode_bytes`)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each text, on all cores unless TOKENIZERS_PARALLELISM=false; the result is the same."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # which of them, depends on the backend's version
            if any(re.search("[\ud800-\udfff]", text) for text in texts):
                raise TokenizerError("text with unpaired surrogates is not Unicode; encode its bytes") from None
            raise
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def encode_bytes(self, data: bytes) -> NDArray[np.int64]:
        """Ids of arbitrary bytes: UTF-8 stretches as text, every other byte by its own token. Lossless."""
        parts: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        for part in re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape")):
            if part and "\udc80" <= part[0] <= "\udcff":
                parts.append(self._byte_ids[np.frombuffer(part.encode("utf-8", "surrogateescape"), dtype=np.uint8)])
            elif part:
                parts.append(self.encode(part))
        return np.concatenate(parts)

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The bytes that `ids` stand for; special tokens stand for none."""
        return b"".join(self._pieces[index] for index in np.asarray(ids, dtype=np.int64).ravel().tolist())

    def decode(self, ids: ArrayLike) -> str:
        """The text that `ids` stand for, special tokens left out and what is not UTF-8 replaced by U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that ends with the assistant's turn, and EOS: CHAT_TEMPLATE, safe for any content.

        Raises:
            TokenizerError: no messages, an unknown role, or a last turn which is not the assistant's.
        """
        ids = self._turns(messages)
        if messages[-1]["role"] != "assistant":
            raise TokenizerError(f"a conversation ends with the assistant's turn, not the {messages[-1]['role']}'s")
        return [*ids, EOS_ID]

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant is to go on."""
        return [*self._turns(messages), *self.response_prefix]

    @property
    def response_prefix(self) -> list[int]:
        """Ids that begin every turn of the assistant's; what follows them is the response."""
        return [IM_START_ID, *self.encode("assistant\n").tolist()]

    def _turns(self, messages: Sequence[Message]) -> list[int]:
        if not messages:
            raise TokenizerError("a conversation needs at least one message")
        ids: list[int] = []
        for message in messages:
            if message["role"] not in ROLES:
                raise TokenizerError(f"role {message['role']!r}: must be one of {', '.join(ROLES)}")
            turn = self.encode(f"{message['role']}\n{message['content'].strip()}").tolist()
            ids += [IM_START_ID, *turn, IM_END_ID, *self._newline]
        return ids


def _token_bytes(backend: BackendTokenizer) -> list[bytes]:
    """The bytes of every id; none for special tokens.

    Byte-level BPE spells tokens in 256 printable characters: a byte that is a visible Latin-1 character stands for
    itself, the others for U+0100, U+0101, ... in their order.
    """
    visible = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
    tokens = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items()}
    ordinary = range(len(SPECIAL_TOKENS), len(tokens))
    return [b""] * len(SPECIAL_TOKENS) + [
        bytes(byte_of[character] for character in tokens[index]) for index in ordinary
    ]
