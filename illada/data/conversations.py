"""Conversations of token shards as prompts and responses: where each turn of the assistant's begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illada.data.shards import ShardError, TokenShards
from illada.data.tokenizer import IM_START_ID


class Conversations:
    """Documents with at least one response that ends, EOS included, within `length` tokens of their beginning.

    One with n such responses is n pairs of a prompt (everything before) and a response, as in LLaDA (arXiv 2502.09992,
    2.3). All tokens are looked at once; memory is some numbers a conversation.

    Attributes:
        documents: int64 [len], which document of the shards each is, counted over all of them.
        left_out: documents without such a response.

    Raises:
        ShardError: the shards are not of conversations.
    """

    def __init__(self, shards: TokenShards, length: int) -> None:
        if not shards.response_prefix:
            raise ShardError(
                f"{shards.folder}: does not tell what responses follow, so these are not conversations of stage "
                "`pairs`, or older ones; leave out objective.responses, or make the pairs again"
            )
        self.shards = shards
        self.length = length
        found = [_responses(shards, number, length) for number in range(len(shards))]
        counts = np.array([int(entry["documents"]) for entry in shards.shards], dtype=np.int64)
        before = np.cumsum(counts) - counts
        document = np.concatenate([first + rows[0] for first, rows in zip(before, found, strict=True)])
        self._prompt, self._end = (np.concatenate([rows[part] for rows in found]) for part in (1, 2))
        self.documents, self._first, self._turns = np.unique(document, return_index=True, return_counts=True)
        self._before = before
        self.left_out = int(counts.sum()) - len(self.documents)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """All tokens of conversation `index`, in [0, len), as a read-only view of the shard's memory map."""
        shard = int(np.searchsorted(self._before, self.documents[index], side="right")) - 1
        offsets = self.shards.offsets(shard)
        place = int(self.documents[index] - self._before[shard])
        return self.shards.values(shard)[offsets[place] : offsets[place + 1]]

    def name(self, document: int) -> str:
        """The id of a document, given its number (see `documents`)."""
        shard = int(np.searchsorted(self._before, document, side="right")) - 1
        name: str = self.shards.batch(shard).column("id")[document - int(self._before[shard])].as_py()
        return name

    def pairs(
        self, indices: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of the prompts, and of prompts and responses together, of one pair of each conversation.

        `draws` in [0, 1) choose the pair, all of a conversation alike.
        """
        turn = self._first[indices] + (draws * self._turns[indices]).astype(np.int64)
        return self._prompt[turn], self._end[turn]


def _responses(shards: TokenShards, shard: int, length: int) -> Sequence[NDArray[np.int64]]:
    """Of each response that fits: its document in the shard, and where it begins and ends in that."""
    values, offsets = shards.values(shard), shards.offsets(shard).astype(np.int64)
    prefix = shards.response_prefix
    starts = np.flatnonzero(values == IM_START_ID)
    document = np.searchsorted(offsets, starts, side="right") - 1
    last = np.append(document[1:] != document[:-1], True) if len(document) else np.empty(0, bool)
    ends = np.where(last, offsets[document + 1] - 1, np.append(starts[1:], 0)[: len(starts)])  # before EOS or next turn
    ours = starts + len(prefix) < ends
    for place, token in enumerate(prefix):
        ours[ours] = values[starts[ours] + place] == token
    begins = offsets[document]
    ours &= ends - begins < length
    return document[ours], (starts - begins)[ours] + len(prefix), (ends - begins)[ours]
