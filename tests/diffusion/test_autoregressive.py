"""Inputs of next-token prediction, against moving each segment by itself."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from illada.diffusion.autoregressive import shifted


@given(st.integers(1, 12), st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_each_segment_is_moved_by_itself(length: int, splits: list[int]) -> None:
    cuts = [min(split, length) for split in splits]
    tokens = torch.arange(100, 100 + len(cuts) * length).view(len(cuts), length)
    before = tokens.clone()
    inputs = shifted(tokens, torch.tensor([[0, cut, length] for cut in cuts], dtype=torch.int32), 1)
    assert torch.equal(tokens, before)
    for row, given_, cut in zip(tokens.tolist(), inputs.tolist(), cuts, strict=True):
        first, second = row[:cut], row[cut:]
        assert given_ == [1, *first[:-1]] + ([1, *second[:-1]] if second else [])
