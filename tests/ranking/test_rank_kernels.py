"""Counting by a kernel equals counting score by score, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import DEVICE
from twhin_core.ranking import rank_kernels
from twhin_core.ranking.rank_kernels import count_above


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 70), st.lists(st.integers(0, 3), max_size=9), st.integers(0, 2**31))
def test_counts_equal_those_of_a_loop(lines: int, width: int, rows: list[int], seed: int) -> None:
    """Scores are small integers, so that many tie; some are nan."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(5, (lines, width), generator=generator).float()
    scores[torch.rand(lines, width, generator=generator) < 0.2] = torch.nan
    row = torch.tensor([number % lines for number in rows], dtype=torch.int64)
    own = torch.randint(5, (len(row),), generator=generator).float()
    above = torch.arange(len(row)) * 10
    expected = [
        10 * number + sum(2 * (score > mine) + (score == mine) for score in scores[line].tolist())
        for number, (line, mine) in enumerate(zip(row.tolist(), own.tolist(), strict=True))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_kernels, "SCORES_AT_ONCE", 32)
        found = above.to(DEVICE)
        count_above(scores.to(DEVICE), row.to(DEVICE), own.to(DEVICE), found)
    assert found.tolist() == expected
