"""Rows of LLaDA's fine-tuning against what the paper and its published loss say, done one number at a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.config import Objective, Responses
from illada.data.conversation_loader import ConversationLoader
from illada.data.conversations import Conversations
from illada.data.loader import Batch
from illada.data.noise import stratified_levels
from illada.data.shards import ShardError, ShardWriter, TokenShards, document_batch
from illada.data.tokenizer import EOS_ID, IM_END_ID, IM_START_ID, MASK_ID, TextTokenizer, train_tokenizer

PREFIX = (IM_START_ID, 10, 11)  # as the assistant's turns begin; the user's with 12, 11
WINDOW, VOCABULARY = 160, 64
EPS = 1e-3

Turns = list[tuple[list[int], list[int]]]
"""Prompts and responses of a conversation, taking turns."""


def _turns(generator: np.random.Generator, count: int, most: int) -> Turns:
    def words() -> list[int]:
        return generator.integers(10, VOCABULARY, generator.integers(1, most)).tolist()

    return [(words(), words()) for _ in range(count)]


def _rendered(turns: Turns) -> list[int]:
    parts = [
        [IM_START_ID, 12, 11, *prompt, IM_END_ID, 13, *PREFIX, *response, IM_END_ID, 13] for prompt, response in turns
    ]
    return [*itertools.chain.from_iterable(parts), EOS_ID]


def _pairs(turns: Turns, window: int) -> list[tuple[int, int]]:
    """(prompt length, prompt and response length) of each pair that fits with its EOS."""
    ends = [len(_rendered(turns[: count + 1])) - 1 for count in range(len(turns))]
    starts = [end - len(response) - 2 for end, (_, response) in zip(ends, turns, strict=True)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end + 1 <= window]


def _write(folder: Path, conversations: list[Turns], prefix: tuple[int, ...] | None = PREFIX) -> TokenShards:
    writer = ShardWriter(folder, vocab_size=VOCABULARY, shard_tokens=900)
    rows = [_rendered(turns) for turns in conversations]
    writer.add(
        document_batch(
            rows,
            ids=[str(number) for number in range(len(rows))],
            sources=["test"] * len(rows),
            languages=["en"] * len(rows),
            sizes=[1] * len(rows),
            dtype=np.uint16,
        )
    )
    writer.close(prefix)
    return TokenShards.open(folder)


@pytest.fixture(scope="module")
def conversations() -> list[Turns]:
    """Of one to four turns; some have no response that fits, some not all."""
    generator = np.random.default_rng(0)
    return [_turns(generator, int(generator.integers(1, 5)), int(generator.choice([8, 60, 200]))) for _ in range(60)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, conversations: list[Turns]) -> TokenShards:
    found = _write(tmp_path_factory.mktemp("data") / "train", conversations)
    assert len(found) > 3
    return found


def _loader(shards: TokenShards, together: int = 2, global_batch: int = 8, **options: Any) -> ConversationLoader:
    objective = Objective(eps=EPS, random_split=0.0, responses=Responses(padded_together=together), **options)
    return ConversationLoader(Conversations(shards, WINDOW), global_batch, 3, objective)


def test_pairs_are_those_of_the_turns(shards: TokenShards, conversations: list[Turns]) -> None:
    found = Conversations(shards, WINDOW)
    expected = {number: pairs for number, turns in enumerate(conversations) if (pairs := _pairs(turns, WINDOW))}
    assert found.documents.tolist() == sorted(expected)
    assert found.left_out == len(conversations) - len(expected) > 3
    assert any(1 < len(pairs) < len(conversations[number]) for number, pairs in expected.items())
    for index, number in enumerate(found.documents.tolist()):
        assert found[index].tolist() == _rendered(conversations[number])
        count = len(expected[number])
        for turn, pair in enumerate(expected[number]):
            prompt, end = found.pairs(np.array([index]), np.array([(turn + 0.5) / count]))
            assert (int(prompt[0]), int(end[0])) == pair


@pytest.mark.parametrize("together", [1, 2, 3, 8])
@pytest.mark.parametrize("levels", ["independent", "stratified"])
def test_rows_are_as_published(shards: TokenShards, conversations: list[Turns], together: int, levels: Any) -> None:
    it = _loader(shards, together, levels=levels)
    for step in (0, 1, it.steps(1)):
        batch = it.batch(step, 0, 8)
        pairs = [_pair_of(batch, row, conversations) for row in range(8)]
        longest = [
            max(end for _, end in pairs[row - row % together : row - row % together + together]) + 1 for row in range(8)
        ]
        width = batch.tokens.shape[1]
        assert width == min(WINDOW, 64 * math.ceil(max(longest) / 64))
        for row, ((prompt, end), filled) in enumerate(zip(pairs, longest, strict=True)):
            text = _rendered(conversations[batch.window_ids[row]])[:end]
            assert batch.tokens[row].tolist() == [*text, *[EOS_ID] * (width - end)]
            assert batch.boundaries[row].tolist() == [0, filled, width]
            t = float(batch.level[row, 0])
            assert (batch.level[row] == batch.level[row, 0]).all()
            p = (1 - EPS) * t + EPS
            for place in range(width):
                if not prompt <= place < filled:
                    assert not batch.mask[row, place], "neither the prompt nor what comes after the padding"
                expected = WINDOW / (filled - prompt) / p if batch.mask[row, place] else 0.0
                assert batch.weight[row, place] == pytest.approx(expected, rel=1e-4)  # t is stored in float32
        if levels == "stratified":
            np.testing.assert_array_equal(batch.level[:, 0], stratified_levels(3, step, 0, 8, 8)[0].astype(np.float32))


def _pair_of(batch: Batch, row: int, conversations: list[Turns]) -> tuple[int, int]:
    """The pair that a row was made of: of those that fit the one after whose response EOS begins."""
    tokens = [*batch.tokens[row].tolist(), EOS_ID]
    pairs = _pairs(conversations[batch.window_ids[row]], WINDOW)
    (found,) = [pair for pair in pairs if pair[1] == tokens.index(EOS_ID)]
    return found


def test_the_loss_is_the_published_one(shards: TokenShards, conversations: list[Turns]) -> None:
    """In float64, with a model whose logits depend on every token the row's own segment has, and on none beyond."""
    it = _loader(shards)
    generator = np.random.default_rng(1)
    table, mix = generator.normal(size=(2, VOCABULARY, VOCABULARY))

    def cross_entropy(noisy: list[int], target: int, place: int) -> float:
        logits = table[noisy].sum(0) / len(noisy) @ mix * math.sin(place + 1)
        return float(np.log(np.exp(logits).sum()) - logits[target])

    for step in (0, 2):
        batch = it.batch(step, 0, 8)
        ours = published = 0.0
        for row in range(8):
            prompt, end = _pair_of(batch, row, conversations)
            other = _pair_of(batch, row ^ 1, conversations)
            ids = batch.tokens[row, : max(end, other[1]) + 1].tolist()  # a mini-batch of two, padded to the longer
            noisy = [MASK_ID if hidden else token for token, hidden in zip(ids, batch.mask[row], strict=False)]
            assert noisy[:prompt] == ids[:prompt]
            p = (1 - EPS) * float(batch.level[row, 0]) + EPS
            answer_length = len(ids) - prompt
            for place, token in enumerate(noisy):
                if token == MASK_ID:
                    published += cross_entropy(noisy, ids[place], place) / p / answer_length / 8

            segment = slice(0, int(batch.boundaries[row, 1]))
            seen = np.where(batch.mask[row], MASK_ID, batch.tokens[row])[segment].tolist()
            for place in np.flatnonzero(batch.mask[row]).tolist():
                target = int(batch.tokens[row, place])
                ours += float(batch.weight[row, place]) * cross_entropy(seen, target, place) / (8 * WINDOW)
        assert published > 1
        assert ours == pytest.approx(published, rel=1e-6)


def test_every_token_of_answers_is_masked_as_often_as_t_says(shards: TokenShards) -> None:
    """EOS of the padding like any other token: E[weight] is L / answer length everywhere in the answer."""
    it = _loader(shards, together=8)
    padding: list[float] = []
    for step in range(300):
        batch = it.batch(step, 0, 8)
        for row, filled in enumerate(batch.boundaries[:, 1].tolist()):
            answer = np.flatnonzero(batch.mask[row]).tolist()
            if batch.tokens[row, filled - 2] == EOS_ID:
                padding.append(float(filled - 1 in answer))
    assert len(padding) > 1000
    assert abs(np.mean(padding) - (1 + EPS) / 2) < 4 * 0.5 / math.sqrt(len(padding))


def test_turns_are_chosen_evenly_and_anew_each_epoch(shards: TokenShards, conversations: list[Turns]) -> None:
    it = _loader(shards)
    chosen = Counter[tuple[int, int]]()
    for step in range(it.steps(60)):
        batch = it.batch(step, 0, 8)
        chosen.update((int(batch.window_ids[row]), _pair_of(batch, row, conversations)[1]) for row in range(8))
    for number in it.conversations.documents.tolist():
        pairs = _pairs(conversations[number], WINDOW)
        total = sum(chosen[number, end] for _, end in pairs)
        assert total >= 58
        for _, end in pairs:
            share = 1 / len(pairs)
            assert abs(chosen[number, end] / total - share) <= 4 * math.sqrt(share * (1 - share) / total)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_part_of_a_step_is_that_of_the_whole(shards: TokenShards, data: st.DataObject) -> None:
    it = _loader(shards, together=data.draw(st.integers(1, 4)))
    step = data.draw(st.integers(0, 20))
    first = data.draw(st.integers(0, 7))
    count = data.draw(st.integers(1, 8 - first))
    whole, part = it.batch(step, 0, 8), it.batch(step, first, count)
    width = part.tokens.shape[1]
    rows = slice(first, first + count)
    assert whole.boundaries[rows, 1].max() <= width, "cut behind the padding"
    np.testing.assert_array_equal(part.boundaries[:, :2], whole.boundaries[rows, :2])
    for field in dataclasses.fields(Batch):
        mine, all_rows = getattr(part, field.name), getattr(whole, field.name)[rows]
        if field.name != "boundaries":
            np.testing.assert_array_equal(mine, all_rows[:, :width] if mine.ndim == 2 else all_rows)


def test_documents_can_be_looked_at(shards: TokenShards) -> None:
    """Their ids are their numbers, of all shards."""
    it = _loader(shards)
    np.testing.assert_array_equal(it.window_ids(2), it.batch(2, 0, 8).window_ids)
    assert it.inspect([57, 0, 31]) == "--tokens --id 57 or --id 0 or --id 31"


def test_state_and_resume(shards: TokenShards) -> None:
    it, again = _loader(shards), _loader(shards)
    assert again.check(it.state(5)) == 5
    with pytest.raises(ValueError, match=r"another training run \(objective: "):
        _loader(shards, together=4).check(it.state(5))


def test_refuses_what_it_cannot_train_on(tmp_path: Path, conversations: list[Turns], shards: TokenShards) -> None:
    with pytest.raises(ShardError, match="not conversations of stage `pairs`"):
        Conversations(_write(tmp_path / "text", conversations[:5], prefix=None), WINDOW)
    with pytest.raises(ValueError, match=r"\(\d+ have none\), but a batch needs 100: add conversations"):
        _loader(shards, global_batch=100)
    with pytest.raises(ValueError, match="random_split must be 0"):
        Objective(responses=Responses())


TOKENIZER = TextTokenizer(train_tokenizer(["user assistant system hello\n\n world 42"] * 3, 300, 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=2, max_size=6).filter(
        lambda texts: len(texts) % 2 == 0
    )
)
def test_responses_begin_where_the_prompt_ends(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """With the real template: what stands before a response is the prompt that generation would give."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(texts)]
    folder = tmp_path_factory.mktemp("one") / "train"
    writer = ShardWriter(folder, vocab_size=TOKENIZER.vocab_size, shard_tokens=10**6)
    ids = TOKENIZER.chat(messages)
    writer.add(document_batch([ids], ids=["0"], sources=["s"], languages=["en"], sizes=[1], dtype=np.uint16))
    writer.close(TOKENIZER.response_prefix)
    found = Conversations(TokenShards.open(folder), len(ids))
    turns = len(texts) // 2
    for turn in range(turns):
        prompt, end = found.pairs(np.array([0]), np.array([(turn + 0.5) / turns]))
        assert ids[: int(prompt[0])] == TOKENIZER.chat_prompt(messages[: 2 * turn + 1])
        assert [*ids[: int(end[0])], EOS_ID] == TOKENIZER.chat(messages[: 2 * turn + 2])
