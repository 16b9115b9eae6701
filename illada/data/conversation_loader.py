"""Batches of LLaDA's fine-tuning: a conversation a row, noise on the response and on the EOS that fills the row up.

As in the paper (arXiv 2502.09992, 2.3 and algorithm 2) and its published loss: the prompt stays visible, the response
and the EOS after it are masked with probability p, and the loss is the mean over rows of

    (1 / answer length)  sum over masked positions of cross-entropy / p

where the answer's length counts the EOS that fill it up to the longest row of its mini-batch. Of a conversation of
several turns one response is chosen at random, and what follows it is left out.

Mini-batches are `padded_together` rows of the global batch, whoever computes them, so that batches do not depend on the
layout. A row's array may be longer than its mini-batch: what comes after is a segment of its own without any loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from illada.config import Objective
from illada.config.training import RESPONSE_STEP
from illada.data.batch_sizes import BatchSizes
from illada.data.conversations import Conversations
from illada.data.loader import Batch, Loader
from illada.data.noise import uniforms
from illada.data.tokenizer import EOS_ID


class ConversationLoader(Loader):
    """Batches of `global_batch` conversations. A batch's arrays are [b, width]: as wide as its rows need.

    `window_ids` are numbers of documents. Weights are L / (p x answer length), L the most tokens of a row: summed over
    a batch of B rows and divided by B x L they make the loss above.

    Raises:
        ValueError: there are fewer conversations than one batch needs.
    """

    def __init__(
        self,
        conversations: Conversations,
        global_batch: int,
        seed: int,
        objective: Objective,
        *,
        domain: str = "train",
        sizes: BatchSizes | None = None,
    ) -> None:
        assert objective.responses is not None
        if len(conversations) < global_batch:
            raise ValueError(
                f"{len(conversations)} conversations with a response within {conversations.length} tokens "
                f"({conversations.left_out} have none), but a batch needs {global_batch}: add conversations, lower "
                "global_batch, or raise window"
            )
        super().__init__(conversations, global_batch, seed, objective, domain=domain, sizes=sizes)
        self.conversations = conversations
        self._together = objective.responses.padded_together

    def counts(self) -> dict[str, int]:
        """Documents there are ("read"), trained on ("kept"), and without a response that fits ("left_out")."""
        kept, left_out = len(self.conversations), self.conversations.left_out
        return {"read": kept + left_out, "kept": kept, "left_out": left_out}

    def batch(self, step: int, first: int, count: int) -> Batch:
        """See `Loader.batch`."""
        self._check_rows(step, first, count)
        low = first - first % self._together
        high = min(-(-(first + count) // self._together) * self._together, self.sizes.size(step))
        start = self.sizes.before(step)
        epochs, indices = self._rows(np.arange(start + low, start + high))
        prompts, ends = self.conversations.pairs(indices, self._draws(epochs, indices))
        longest = np.maximum.reduceat(ends + 1, np.arange(0, len(ends), self._together))
        filled = np.repeat(longest, self._together)[: len(ends)]

        mine = slice(first - low, first - low + count)
        epochs, indices, prompts, ends, filled = (part[mine] for part in (epochs, indices, prompts, ends, filled))
        width = min(-(-int(filled.max()) // RESPONSE_STEP) * RESPONSE_STEP, self.windows.length)
        tokens = np.full((count, width), EOS_ID, dtype=np.int64)
        for row, index, end in zip(tokens, indices.tolist(), ends.tolist(), strict=True):
            row[:end] = self.conversations[index][:end]
        documents = self.conversations.documents[indices]
        noise = self._noise(epochs, documents, self._levels(step, first, count), width)
        batch = Batch(window_ids=documents, epochs=epochs, tokens=tokens, **noise)
        place = np.arange(width)
        mask = batch.mask & (place >= prompts[:, None]) & (place < filled[:, None])
        share = self.windows.length / (filled - prompts)
        boundaries = np.stack([np.zeros_like(filled), filled, np.full_like(filled, width)], axis=1).astype(np.int32)
        weight = np.where(mask, batch.weight * share[:, None], 0).astype(np.float32)
        return dataclasses.replace(batch, mask=mask, weight=weight, boundaries=boundaries)

    def window_ids(self, step: int) -> NDArray[np.int64]:
        """The documents of a whole global step: int64 [its size]."""
        return self.conversations.documents[super().window_ids(step)]

    def inspect(self, window_ids: Sequence[int]) -> str:
        """The options of `illada data inspect` that show these documents, one after the other."""
        first, *others = map(self.conversations.name, window_ids)
        return " or ".join([f"--tokens --id {first}", *(f"--id {name}" for name in others)])

    def _draws(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """A number of [0, 1) for each row, which chooses the response."""
        draws = np.empty(len(indices))
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            documents = self.conversations.documents[indices[chosen]]
            draws[chosen] = uniforms(self.seed, int(epoch), documents, 1, domain=f"{self.domain}/responses")[:, 0]
        return draws
